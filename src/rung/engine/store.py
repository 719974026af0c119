"""The memory of a batch under one limit: a cache of prompts, each there once, and one of what sequences add to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rung.engine.cache import STEPS, Cache, padded, slot_bytes
from rung.engine.prefixes import SHORT
from rung.models.network import Shape

__all__ = ["Alone", "Need", "Store"]


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


@dataclass(frozen=True, slots=True)
class Alone:
    """What a limit leaves to a sequence that runs by itself, in steps of `num_rows` rows: who fits then gets his turn,
    however many others wait. `limit` in bytes, 0 for any number."""

    num_rows: int
    position_bytes: int
    limit: int

    @classmethod
    def of(cls, shape: Shape, num_rows: int, dtype: torch.dtype, limit: int) -> Alone:
        """For a network of this shape."""
        return cls(num_rows, slot_bytes(shape, dtype), limit)

    def bytes_for(self, num_prompt: int, num_own: int) -> int:
        """What a prompt of so many tokens takes, of which all but the last lie there once, and `num_own` tokens from
        the last on in every row; a short prompt is copied in front of these. Rounded up as coarsely as a cache may."""
        shared = num_prompt - 1
        own = num_own + (shared if shared <= SHORT else 0)
        return self.position_bytes * (self.num_rows * padded(own, STEPS[-1]) + padded(shared, STEPS[-1]))

    def holds(self, num_prompt: int, num_own: int) -> bool:
        """Whether that fits the limit."""
        return not self.limit or self.bytes_for(num_prompt, num_own) <= self.limit
