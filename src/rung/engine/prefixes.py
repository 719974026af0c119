"""Prompts in a cache of their own: each lies there once, however many sequences go on from it."""

from __future__ import annotations

from dataclasses import dataclass

from rung.engine.cache import BLOCK, Cache
from rung.engine.prefill import Prompt

__all__ = ["SHORT", "Prefix", "Prefixes"]

SHORT = BLOCK // 2  # positions up to which a prompt is copied before every sequence that goes on from it


@dataclass(slots=True)
class Prefix:
    """Token ids in a slot of the cache, and how many sequences go on from them. Without ids it has no slot."""

    ids: tuple[int, ...]
    slot: int
    num_users: int = 0


class Prefixes:
    """Which slot holds which prompt. One that nobody uses any more stays for whoever comes, until its slot is needed.

    It lives no longer than its batch, so no later weights meet it.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._held: dict[tuple[int, ...], Prefix] = {}

    def prompts(self) -> list[Prompt]:
        """All that are there."""
        return [Prompt(prefix.ids, prefix.slot) for prefix in self._held.values()]

    def take(self, ids: tuple[int, ...]) -> tuple[Prefix, bool]:
        """The prompt with one more user, and whether it is new: then its slot, one of the cache's, is still to be
        filled. The cache must have a slot that is not used."""
        prefix = self._held.get(ids)
        if not ids or prefix is not None:
            prefix = prefix or Prefix(ids, 0)
            prefix.num_users += 1
            return prefix, False
        prefix = self._held[ids] = Prefix(ids, self._free_slot(), 1)
        return prefix, True

    def _free_slot(self) -> int:
        taken = {prefix.slot for prefix in self._held.values()}
        for slot in range(self._cache.num_slots):
            if slot not in taken:
                return slot
        oldest = next(prefix for prefix in self._held.values() if not prefix.num_users)
        del self._held[oldest.ids]
        return oldest.slot

    def release(self, prefix: Prefix) -> None:
        """One user less."""
        prefix.num_users -= 1

    def pack(self) -> None:
        """Forget what nobody uses, and move the rest into the first slots, so that the cache may shrink."""
        used = sorted((p for p in self._held.values() if p.num_users), key=lambda prefix: prefix.slot)
        for slot, prefix in enumerate(used):
            if prefix.slot != slot:
                self._cache.copy(prefix.slot, slot, len(prefix.ids))
                prefix.slot = slot
        self._held = {prefix.ids: prefix for prefix in used}
