"""Attention over a cache: keys and values of every slot lie in one contiguous block per layer.

Legend: N slots in the batch, T token, H query heads, K key/value heads, G query heads per key head, d head width,
L cached positions looked at.

The bits of a row may not depend on its neighbours, so nothing here reduces over a length that neighbours decide: the
weighted sum over positions runs in blocks of `BLOCK`, anchored at position 0. A block in which a slot has nothing to
see adds exact zeros, however many such blocks the longest neighbour brings along.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from rung.models.network import Shape

__all__ = [
    "BLOCK",
    "QUERIES",
    "STEPS",
    "Cache",
    "DecodeAttend",
    "Piece",
    "PrefillAttend",
    "longest_within",
    "slot_bytes",
]

BLOCK = 256
STEPS = (16, 64, BLOCK)  # granularities of the length looked at within the first block; the finest reads least
QUERIES = 16  # prompt positions that attend together
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
        limit: bytes that it may take, 0 for any number. Longer sequences then leave room for fewer slots.
    """

    def __init__(self, shape: Shape, num_slots: int, dtype: torch.dtype, device: torch.device, limit: int = 0) -> None:
        self.num_slots, self.capacity, self.step, self.limit = num_slots, 0, _GROWTH, limit
        self._shape, self._dtype, self._device = shape, dtype, device
        self.keys = [self._empty(0) for _ in range(shape.num_layers)]
        self.values = [self._empty(0) for _ in range(shape.num_layers)]

    def _empty(self, capacity: int) -> Tensor:
        size = (self.num_slots, self._shape.num_kv_heads, capacity, self._shape.head_width)
        return torch.zeros(size, dtype=self._dtype, device=self._device)

    @property
    def slot_bytes(self) -> int:
        """What one position of one slot takes."""
        return slot_bytes(self._shape, self._dtype)

    @property
    def num_bytes(self) -> int:
        """What all of it takes now."""
        return self.slot_bytes * self.num_slots * self.capacity

    def affordable(self, num_positions: int) -> int:
        """How many slots of so many positions the limit allows."""
        capacity = self._capacity(num_positions)
        return self.limit // (self.slot_bytes * capacity) if self.limit and capacity else sys.maxsize

    def _capacity(self, num_positions: int) -> int:
        return padded(num_positions, max(_GROWTH, self.step))

    def reserve(self, num_positions: int) -> None:
        """Make room for `num_positions` in every slot; what is cached stays."""
        if self._capacity(num_positions) > self.capacity:
            self.resize(self.num_slots, num_positions)

    def resize(self, num_slots: int, num_positions: int) -> None:
        """Have so many slots, and room for `num_positions` in each; what is cached there stays."""
        capacity, slots = self._capacity(num_positions), min(num_slots, self.num_slots)
        places = min(capacity, self.capacity)
        self.num_slots, self.capacity = num_slots, capacity
        for held in (self.keys, self.values):
            for layer, old in enumerate(held):
                held[layer] = self._empty(capacity)
                held[layer][:slots, :, :places] = old[:slots, :, :places]

    def copy(self, source: int, target: int, stop: int, start: int = 0) -> None:
        """Give slot `target` the positions from `start` up to `stop` of slot `source`."""
        for held in (*self.keys, *self.values):
            held[target, :, start:stop] = held[source, :, start:stop]


def slot_bytes(shape: Shape, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one position in all layers."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_width * dtype.itemsize


def longest_within(shape: Shape, num_slots: int, dtype: torch.dtype, limit: int) -> int:
    """The longest sequences, in whole blocks, of which `num_slots` fit `limit` bytes; 0 without a limit, or where
    none do."""
    return limit // (slot_bytes(shape, dtype) * num_slots) // BLOCK * BLOCK


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` tokens of the sequence in `slot`, from position `start`."""

    slot: int
    start: int
    length: int


class PrefillAttend:
    """Pieces of prompts, one after another in one row: writes their keys and values, reads what came before in their
    own slots. All of them lie within the `num_positions` after `origin`; rows beyond the pieces are padding and come
    out as zeros.

    Queries run in groups of `QUERIES` positions anchored at position 0, filled up with rows that nobody reads, and look
    at the positions up to the end of their group: shapes that a token's position alone decides. So its result depends
    neither on the other pieces nor on where its own was cut.
    """

    def __init__(self, cache: Cache, pieces: Sequence[Piece], origin: int, num_positions: int) -> None:
        self._cache, device = cache, cache.keys[0].device
        self._slots = torch.tensor([p.slot for p in pieces for _ in range(p.length)], device=device)
        self._positions = torch.tensor([t for p in pieces for t in range(p.start, p.start + p.length)], device=device)
        starts = [0, *accumulate(p.length for p in pieces)]
        self._groups = [
            group
            for anchor in range(origin, origin + num_positions, QUERIES)
            if (group := _group(anchor, pieces, starts, device)) is not None
        ]
        self._masks: dict[tuple[int, int], tuple[int, Tensor]] = {}

    def __call__(
        self, layer: int, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int
    ) -> Tensor:
        """Attention output [1, T, H, d]; see `rung.models.network.Attend`."""
        keys, values, num_rows = self._cache.keys[layer], self._cache.values[layer], len(self._positions)
        keys[self._slots, :, self._positions] = key_BTKd[0, :num_rows]
        values[self._slots, :, self._positions] = value_BTKd[0, :num_rows]
        query_THd, out_BTHd = query_BTHd[0], torch.zeros_like(query_BTHd)
        num_kv_heads, per_head, width = keys.shape[1], query_THd.shape[1] // keys.shape[1], keys.shape[3]
        for group in self._groups:
            first, mask = self._mask(group.anchor, window, per_head)
            asked = query_THd[group.table].view(-1, QUERIES, num_kv_heads, per_head, width)
            seen = functional.scaled_dot_product_attention(
                asked.permute(0, 2, 3, 1, 4).reshape(-1, num_kv_heads, per_head * QUERIES, width),
                keys[group.slots, :, first : group.anchor + QUERIES],
                values[group.slots, :, first : group.anchor + QUERIES],
                attn_mask=mask,
                scale=scale,
            )
            answered = seen.view(-1, num_kv_heads, per_head, QUERIES, width).permute(0, 3, 1, 2, 4)
            out_BTHd[0, group.rows] = answered.reshape(-1, *query_THd.shape[1:])[group.places]
        return out_BTHd

    def _mask(self, anchor: int, window: int, per_head: int) -> tuple[int, Tensor]:
        """First position looked at, and what is added to the scores of a group, [per_head * QUERIES, L]."""
        if (anchor, window) not in self._masks:
            first = max(0, anchor - window + 1) // QUERIES * QUERIES if window else 0
            device = self._positions.device
            query = torch.arange(anchor, anchor + QUERIES, device=device)[:, None]
            place = torch.arange(first, anchor + QUERIES, device=device)[None]
            hidden = place > query
            if window:
                hidden |= place <= query - window
            mask = torch.zeros(hidden.shape, dtype=self._cache.keys[0].dtype, device=device)
            self._masks[anchor, window] = (first, mask.masked_fill_(hidden, -torch.inf).repeat(per_head, 1))
        return self._masks[anchor, window]


@dataclass(frozen=True, slots=True)
class _Group:
    """The queries at `anchor` and the `QUERIES - 1` positions after it of every piece that has any of them.

    `table` [G, Q] says in which row of the forward each stands (any row where a piece lacks the position); `rows` are
    those that count, and `places` where they stand in the table.
    """

    anchor: int
    slots: Tensor | slice
    table: Tensor
    rows: Tensor
    places: Tensor


def _group(anchor: int, pieces: Sequence[Piece], starts: Sequence[int], device: torch.device) -> _Group | None:
    slots, table, places = list[int](), list[list[int]](), list[int]()
    for piece, row in zip(pieces, starts, strict=False):
        first, stop = max(piece.start, anchor), min(piece.start + piece.length, anchor + QUERIES)
        if first >= stop:
            continue
        places += range(len(slots) * QUERIES + first - anchor, len(slots) * QUERIES + stop - anchor)
        table.append([row - piece.start + t if first <= t < stop else row for t in range(anchor, anchor + QUERIES)])
        slots.append(piece.slot)
    if not slots:
        return None
    whole, at = torch.tensor(table, device=device), torch.tensor(places, device=device)
    neighbours = slots == list(range(slots[0], slots[0] + len(slots)))
    where = slice(slots[0], slots[0] + len(slots)) if neighbours else torch.tensor(slots, device=device)
    return _Group(anchor, where, whole, whole.flatten()[at], at)


class DecodeAttend:
    """One new token for each of the first N slots, slot n's at position `positions[n]`.

    Args:
        cache: with room for the largest position.
        positions: where each slot's token stands, on the host.
        minimum: look at no fewer than this many (padded) positions; the start-up probe uses it.
    """

    def __init__(self, cache: Cache, positions: list[int], minimum: int = 0) -> None:
        self._cache, self._positions = cache, positions
        self._length = padded(max(max(positions) + 1, minimum), cache.step)
        device = cache.keys[0].device
        self._positions_N1 = torch.tensor(positions, device=device)[:, None]
        heads = torch.arange(len(positions) * cache.keys[0].shape[1], device=device)
        slot_positions = self._positions_N1.expand(-1, cache.keys[0].shape[1]).reshape(-1)
        self._places = heads * cache.capacity + slot_positions
        self._views: dict[int, tuple[int, Tensor]] = {}

    def __call__(
        self, layer: int, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int
    ) -> Tensor:
        """Attention output [N, 1, H, d]; see `rung.models.network.Attend`."""
        num_slots, _, num_kv_heads, width = key_BTKd.shape
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys.view(-1, width).index_copy_(0, self._places, key_BTKd.reshape(-1, width))
        values.view(-1, width).index_copy_(0, self._places, value_BTKd.reshape(-1, width))
        first, mask = self._view(window, num_kv_heads, query_BTHd.shape[2] // num_kv_heads, query_BTHd.dtype)
        rows = num_slots * num_kv_heads
        keys = keys.view(-1, self._cache.capacity, width)[:rows, first : self._length]
        values = values.view(-1, self._cache.capacity, width)[:rows, first : self._length]
        query = query_BTHd.reshape(rows, -1, width)
        weights = torch.baddbmm(mask, query, keys.transpose(1, 2), alpha=scale).softmax(-1)
        seen = torch.bmm(weights[..., :BLOCK], values[:, :BLOCK])
        for start in range(BLOCK, self._length - first, BLOCK):
            seen = torch.baddbmm(seen, weights[..., start : start + BLOCK], values[:, start : start + BLOCK])
        return seen.view(query_BTHd.shape)

    def _view(self, window: int, num_kv_heads: int, group: int, dtype: torch.dtype) -> tuple[int, Tensor]:
        """First position that any slot looks at (a whole number of blocks), and the additive mask [N*K, G, L]."""
        if window not in self._views:
            first = max(0, min(self._positions) - window + 1) // BLOCK * BLOCK if window else 0
            place = torch.arange(first, self._length, device=self._positions_N1.device)[None]
            hidden = place > self._positions_N1
            if window:
                hidden |= place <= self._positions_N1 - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
            wide = mask[:, None, None].expand(-1, num_kv_heads, group, -1).reshape(-1, group, mask.shape[-1])
            self._views[window] = (first, wide)
        return self._views[window]
