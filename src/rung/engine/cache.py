"""Keys and values of running sequences: one contiguous block per layer, its memory accounted for.

Legend: K key/value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rung.models.network import Shape

__all__ = ["BLOCK", "STEPS", "Cache", "padded", "slot_bytes"]

BLOCK = 128  # matrix kernels may split longer sums in places that the length decides
STEPS = (16, 64, BLOCK)  # granularities of the length looked at within the first block; the finest reads least
_GROWTH = 64


def padded(num_positions: int, step: int) -> int:
    """The length that `num_positions` are rounded up to: multiples of `step` in the first block, then whole blocks."""
    unit = step if num_positions <= BLOCK else BLOCK
    return -(-num_positions // unit) * unit


class Cache:
    """Keys and values of all layers, each [num_slots, K, capacity, d]; capacity grows by blocks.

    Memory is `slot_bytes` * num_slots * capacity. Values beyond a slot's own length are stale or zero, always finite,
    and masked by whoever reads. `step` is the granularity of the length that a decode step looks at within the first
    block, to be set before `reserve`; the start-up probe finds the finest that changes no bit.

    Args:
        shape, dtype, device: of the network.
        num_slots: sequences that it holds.
    """

    def __init__(self, shape: Shape, num_slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self.num_slots, self.capacity, self.step = num_slots, 0, _GROWTH
        self._shape, self._dtype, self._device = shape, dtype, device
        self.keys = [self._empty(0) for _ in range(shape.num_layers)]
        self.values = [self._empty(0) for _ in range(shape.num_layers)]

    def _empty(self, capacity: int) -> Tensor:
        size = (self.num_slots, self._shape.num_kv_heads, capacity, self._shape.head_width)
        return torch.zeros(size, dtype=self._dtype, device=self._device)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self._device

    @property
    def num_kv_heads(self) -> int:
        """Key heads of a layer."""
        return self._shape.num_kv_heads

    @property
    def slot_bytes(self) -> int:
        """What one position of one slot takes."""
        return slot_bytes(self._shape, self._dtype)

    @property
    def num_bytes(self) -> int:
        """What all of it takes now."""
        return self.slot_bytes * self.num_slots * self.capacity

    def capacity_for(self, num_positions: int) -> int:
        """What sequences of so many positions are rounded up to."""
        return padded(num_positions, max(_GROWTH, self.step))

    def reserve(self, num_positions: int) -> None:
        """Make room for `num_positions` in every slot; what is cached stays."""
        if self.capacity_for(num_positions) > self.capacity:
            self.resize(self.num_slots, num_positions)

    def resize(self, num_slots: int, num_positions: int) -> None:
        """Have so many slots, and room for `num_positions` in each; what is cached there stays."""
        capacity, slots = self.capacity_for(num_positions), min(num_slots, self.num_slots)
        places = min(capacity, self.capacity)
        self.num_slots, self.capacity = num_slots, capacity
        for held in (self.keys, self.values):
            for layer, old in enumerate(held):
                held[layer] = self._empty(capacity)
                held[layer][:slots, :, :places] = old[:slots, :, :places]

    def take(self, other: Cache, slots: Mapping[int, int], stop: int) -> None:
        """Give the slots `slots` the first `stop` positions of those of another cache that they map to."""
        targets, sources = (torch.tensor(list(x), device=self._device) for x in (slots.keys(), slots.values()))
        for held, from_held in zip((*self.keys, *self.values), (*other.keys, *other.values), strict=True):
            held[targets, :, :stop] = from_held[sources, :, :stop]

    def copy(self, source: int, target: int, stop: int, start: int = 0) -> None:
        """Give slot `target` the positions from `start` up to `stop` of slot `source`."""
        for held in (*self.keys, *self.values):
            held[target, :, start:stop] = held[source, :, start:stop]


def slot_bytes(shape: Shape, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one position in all layers."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_width * dtype.itemsize
