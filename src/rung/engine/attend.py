"""Attention over a cache: keys and values of every slot lie in one contiguous block per layer.

Legend: N slots in the batch, T token, H query heads, K key/value heads, G query heads per key head, d head width,
L cached positions looked at.

The bits of a row may not depend on its neighbours, so nothing here reduces over a length that neighbours decide: the
weighted sum over positions runs in blocks of `BLOCK`, anchored at position 0. A block in which a slot has nothing to
see adds exact zeros, however many such blocks the longest neighbour brings along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rung.models.layers.attend import attend_causally
from rung.models.network import Shape

__all__ = ["BLOCK", "STEPS", "Cache", "DecodeAttend", "Piece", "PrefillAttend"]

BLOCK = 256
STEPS = (16, 64, BLOCK)  # granularities of the length looked at within the first block; the finest reads least
_GROWTH = 64


def padded(num_positions: int, step: int) -> int:
    """The length that `num_positions` are rounded up to: multiples of `step` in the first block, then whole blocks."""
    unit = step if num_positions <= BLOCK else BLOCK
    return -(-num_positions // unit) * unit


class Cache:
    """Keys and values of all layers, each [num_slots, K, capacity, d]; capacity grows by blocks.

    Memory is 2 * num_layers * num_slots * K * capacity * d elements. Values beyond a slot's own length are stale or
    zero, always finite, and masked by whoever reads. `step` is the granularity of the length that a decode step looks
    at within the first block, to be set before `reserve`; the start-up probe finds the finest that changes no bit.
    """

    def __init__(self, shape: Shape, num_slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self.num_slots, self.capacity, self.step = num_slots, 0, _GROWTH
        self._shape, self._dtype, self._device = shape, dtype, device
        self.keys = [self._empty(0) for _ in range(shape.num_layers)]
        self.values = [self._empty(0) for _ in range(shape.num_layers)]

    def _empty(self, capacity: int) -> Tensor:
        size = (self.num_slots, self._shape.num_kv_heads, capacity, self._shape.head_width)
        return torch.zeros(size, dtype=self._dtype, device=self._device)

    def reserve(self, num_positions: int) -> None:
        """Make room for `num_positions` in every slot; what is cached stays."""
        wanted = padded(num_positions, max(_GROWTH, self.step))
        if wanted <= self.capacity:
            return
        for held in (self.keys, self.values):
            for layer, old in enumerate(held):
                held[layer] = self._empty(wanted)
                held[layer][:, :, : self.capacity] = old
        self.capacity = wanted

    def copy(self, source: int, target: int, stop: int, start: int = 0) -> None:
        """Give slot `target` the positions from `start` up to `stop` of slot `source`."""
        for held in (*self.keys, *self.values):
            held[target, :, start:stop] = held[source, :, start:stop]


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` tokens of the sequence in `slot`, from position `start`."""

    slot: int
    start: int
    length: int


class PrefillAttend:
    """Pieces of prompts, one after another in one row: writes their keys and values, reads what came before in their
    own slots. Every piece runs in shapes of its own, so its result does not depend on the others; rows beyond the
    pieces are padding and come out as zeros.
    """

    def __init__(self, cache: Cache, pieces: Sequence[Piece]) -> None:
        self._cache, self._pieces = cache, pieces
        self._masks: dict[tuple[int, int, int], Tensor] = {}

    def __call__(
        self, layer: int, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int
    ) -> Tensor:
        """Attention output [1, T, H, d]; see `rung.models.network.Attend`."""
        out_BTHd, at = torch.zeros_like(query_BTHd), 0
        for piece in self._pieces:
            rows = slice(at, at + piece.length)
            at += piece.length
            query, key, value = query_BTHd[:, rows], key_BTKd[:, rows], value_BTKd[:, rows]
            self._write(layer, piece, key, value)
            if piece.start == 0:
                out_BTHd[:, rows] = attend_causally(query, key, value, scale=scale, window=window)
            else:
                out_BTHd[:, rows] = self._with_past(layer, piece, query, scale=scale, window=window)
        return out_BTHd

    def _write(self, layer: int, piece: Piece, key_1TKd: Tensor, value_1TKd: Tensor) -> None:
        there = slice(piece.start, piece.start + piece.length)
        self._cache.keys[layer][piece.slot, :, there] = key_1TKd[0].transpose(0, 1)
        self._cache.values[layer][piece.slot, :, there] = value_1TKd[0].transpose(0, 1)

    def _with_past(self, layer: int, piece: Piece, query_1THd: Tensor, *, scale: float, window: int) -> Tensor:
        keys, values = self._cache.keys[layer][piece.slot], self._cache.values[layer][piece.slot]
        first = max(0, piece.start - window + 1) if window else 0
        seen = functional.scaled_dot_product_attention(
            query_1THd.transpose(1, 2),
            keys[None, :, first : piece.start + piece.length],
            values[None, :, first : piece.start + piece.length],
            attn_mask=self._mask(piece, window, first),
            scale=scale,
            enable_gqa=query_1THd.shape[2] != keys.shape[0],
        )
        return seen.transpose(1, 2)

    def _mask(self, piece: Piece, window: int, first: int) -> Tensor:
        """True where query `start + row` may look at position `first + column`."""
        kind = (piece.start, piece.length, window)
        if kind not in self._masks:
            device, stop = self._cache.keys[0].device, piece.start + piece.length
            query = torch.arange(piece.start, stop, device=device)[:, None]
            key = torch.arange(first, stop, device=device)[None]
            near = key > query - window if window else torch.ones_like(key, dtype=torch.bool)
            self._masks[kind] = (key <= query) & near
        return self._masks[kind]


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
