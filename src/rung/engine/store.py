"""The memory of a batch under one limit: a cache of prompts, each there once, and one of what sequences add to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rung.engine.cache import BLOCK, Cache, slot_bytes
from rung.models.network import Shape

__all__ = ["Need", "Store", "longest_within"]


@dataclass(frozen=True, slots=True)
class Need:
    """Room for the own parts of `num_rows` sequences, the longest of `own` positions, and for `num_prefixes` prompts,
    the longest of `prefix` positions."""

    num_rows: int
    own: int
    num_prefixes: int
    prefix: int


class Store:
    """Both caches. `limit`: bytes that they may take together, 0 for any number."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device, limit: int = 0) -> None:
        self.own, self.prefixes = (Cache(shape, 0, dtype, device) for _ in range(2))
        self.limit = limit

    @property
    def num_bytes(self) -> int:
        """What both take now."""
        return self.own.num_bytes + self.prefixes.num_bytes

    def set_step(self, step: int) -> None:
        """The granularity of the lengths looked at, see `Cache`; before anything is reserved."""
        self.own.step = self.prefixes.step = step

    def affordable(self, need: Need) -> bool:
        """Whether the limit allows it."""
        return not self.limit or self._bytes(need) <= self.limit

    def _bytes(self, need: Need) -> int:
        own = need.num_rows * self.own.capacity_for(need.own)
        return self.own.slot_bytes * (own + need.num_prefixes * self.prefixes.capacity_for(need.prefix))

    def holds(self, need: Need) -> bool:
        """Whether there is room for it already."""
        return _has(self.own, need.num_rows, need.own) and _has(self.prefixes, need.num_prefixes, need.prefix)

    def grown(self, need: Need) -> Need:
        """Room for `need` beside what there is room for now; prompts come one after another, so twice as many where
        they need more."""
        most = self.prefixes.num_slots
        return Need(
            max(need.num_rows, self.own.num_slots),
            max(need.own, self.own.capacity),
            most if need.num_prefixes <= most else max(need.num_prefixes, min(2 * most, need.num_rows)),
            max(need.prefix, self.prefixes.capacity),
        )

    def resize(self, need: Need) -> None:
        """Have exactly this room; what is cached there stays."""
        parts = [(self.own, need.num_rows, need.own), (self.prefixes, need.num_prefixes, need.prefix)]
        # the one that shrinks first, so that the limit holds in between too
        for cache, num_slots, num_positions in sorted(parts, key=_growth):
            if (cache.num_slots, cache.capacity) != (num_slots, cache.capacity_for(num_positions)):
                cache.resize(num_slots, num_positions)


def _has(cache: Cache, num_slots: int, num_positions: int) -> bool:
    return cache.num_slots >= num_slots and cache.capacity >= num_positions


def _growth(part: tuple[Cache, int, int]) -> int:
    cache, num_slots, num_positions = part
    return num_slots * cache.capacity_for(num_positions) - cache.num_slots * cache.capacity


def longest_within(shape: Shape, num_rows: int, dtype: torch.dtype, limit: int) -> int:
    """The longest sequence, prompt included, in whole blocks, that fits `limit` bytes alone in a step of `num_rows`
    rows, however it divides into prompt and answer; 0 without a limit, or where none does."""
    positions = limit // slot_bytes(shape, dtype)
    # both parts are rounded up, the prompt's by less than a block; a short prompt is in both
    return max(0, positions - BLOCK) // num_rows // BLOCK * BLOCK
