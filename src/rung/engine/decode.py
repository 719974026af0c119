"""Attention of a decode step: every row looks at the prompt its sequence goes on from, which lies in the cache of
prefixes once however many share it, and at the sequence's own part.

Legend: R rows of the step, S slots looked into, W rows a slot serves, H query heads, K key/value heads, G query heads
per key head, Q = W * G rounded up to `QUERY_ROWS` (to `LONE_ROWS` where S * K = 1), d head width, L cached positions
looked at.

The bits of a row may not depend on its neighbours. The compiled kernels take a row at a time; what follows is of
torch's (`_Plain`, `_Part`), which run where there are none. Products run on a multiple of `QUERY_ROWS` query rows,
from which on matrix kernels give a row the same bits in any company, so one row alone and sixteen that share a prompt
agree; a product that has no other beside it is split over threads, and needs `LONE_ROWS`. Logarithms and exponentials
run on whole `LINE`s, for what is left over from a vector goes through another kernel. The weighted sum over positions
runs in blocks of `BLOCK`, anchored at position 0 of its part: a block in which a row has nothing to see adds exact
zeros, however many such blocks the longest neighbour brings along. The two parts are merged by their log-sum-exp (as
in the online softmax of FlashAttention, arXiv 2205.14135).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rung.engine.cache import BLOCK, Cache, padded
from rung.models.native.kernels import Kernels, Looks, kernels

__all__ = ["LINE", "LONE_ROWS", "QUERY_ROWS", "DecodeAttend", "Place"]

QUERY_ROWS = 4
LONE_ROWS = 16
LINE = 64  # numbers; a multiple of every vector's width


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row's token stands: at `position` of its sequence's own part in `slot`, after the `num_before` positions
    of slot `prefix` in the cache of prefixes."""

    slot: int
    position: int
    prefix: int = 0
    num_before: int = 0


class DecodeAttend:
    """New tokens of running sequences: writes their keys and values into their own parts, reads both.

    Args:
        own: with room for the largest position.
        prefixes: of the prompts.
        places: one for each row; several rows may belong to one sequence, at positions that follow each other.
        minimum: look at no fewer than this many (padded) positions of each part; the start-up probe uses it.
    """

    def __init__(self, own: Cache, prefixes: Cache, places: Sequence[Place], minimum: int = 0) -> None:
        ahead = [_Row(row, p.slot, p.position, p.position) for row, p in enumerate(places)]
        before = [
            _Row(row, p.prefix, p.num_before - 1, p.num_before + p.position)
            for row, p in enumerate(places)
            if p.num_before
        ]
        self._ahead: _Compiled | _Plain
        self._before: _Compiled | _Part
        if ours := kernels() if Kernels.can_attend(own.keys[0]) else None:
            absent = [_Row(row, 0, -1, 0) for row, p in enumerate(places) if not p.num_before]
            everyone = sorted((*before, *absent), key=lambda row: row.row) if before else []
            self._ahead, self._before = _Compiled(own, ahead, ours), _Compiled(prefixes, everyone, ours)
        else:
            self._ahead = _Plain(own, places, ahead, minimum)
            self._before = _Part(prefixes, before, len(places), minimum)

    def __call__(
        self, layer: int, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int
    ) -> Tensor:
        """Attention output [R, 1, H, d]; see `rung.models.network.Attend`."""
        self._ahead.put(layer, key_BTKd[:, 0], value_BTKd[:, 0])
        look = _Look(layer, query_BTHd[:, 0], scale, window)
        ahead, before = self._ahead.see(look), self._before.see(look)
        assert ahead is not None  # a token sees itself
        seen = ahead.seen
        if before is not None:
            # exactly `seen` where the weight of the prompt is zero
            share = _lined(torch.sigmoid, before.total - ahead.total)[:, None]
            seen = torch.lerp(seen, before.seen, share.to(seen.dtype))
        return seen.view(query_BTHd.shape)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that looks into `slot` up to place `last`; `position` is where it stands, counted as that part's are."""

    row: int
    slot: int
    last: int
    position: int


@dataclass(frozen=True, slots=True)
class _Look:
    """What a layer asks: `queries` [R, H, d], and how far back they see (0: everything)."""

    layer: int
    queries: Tensor
    scale: float
    window: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """Weighted values [rows, d], and the log-sum-exp of the scores that weighted them, float32 [rows]."""

    seen: Tensor
    total: Tensor


@dataclass(frozen=True, slots=True)
class _Back:
    """Where each row's heads stand in what tables give, [R * H]; `whole` where it is one table and has them all."""

    places: Tensor
    whole: bool


class _Plain:
    """The own parts by torch's kernels."""

    def __init__(self, cache: Cache, places: Sequence[Place], rows: Sequence[_Row], minimum: int) -> None:
        self._cache = cache
        at = torch.tensor([[p.slot, p.position] for p in places], device=cache.device)
        heads = at[:, :1] * cache.num_kv_heads + torch.arange(cache.num_kv_heads, device=at.device)
        self._written = (heads * cache.capacity + at[:, 1:]).reshape(-1)
        self._part = _Part(cache, rows, len(places), minimum)

    def put(self, layer: int, keys_RKd: Tensor, values_RKd: Tensor) -> None:
        """Write every row's new keys and values at its position."""
        for held, new in ((self._cache.keys[layer], keys_RKd), (self._cache.values[layer], values_RKd)):
            held.view(-1, held.shape[-1]).index_copy_(0, self._written, new.reshape(-1, held.shape[-1]))

    def see(self, look: _Look) -> _Seen | None:
        """What every head of every row sees, [R * H] rows."""
        return self._part.see(look)


class _Compiled:
    """Either part by the compiled kernels: a row reads what it looks at, and nothing beyond. Rows that share a prompt
    read it one after another, out of the processor's cache."""

    def __init__(self, cache: Cache, rows: Sequence[_Row], ours: Kernels) -> None:
        self._cache, self._ours = cache, ours
        self._slots, self._last, self._position = torch.tensor(
            [[row.slot for row in rows], [row.last for row in rows], [row.position for row in rows]], dtype=torch.int64
        )
        self._looks: dict[int, Looks] = {}

    def put(self, layer: int, keys_RKd: Tensor, values_RKd: Tensor) -> None:
        """Write every row's new keys and values at its position."""
        held = self._cache.keys[layer], self._cache.values[layer]
        self._ours.put(keys_RKd, values_RKd, held, self._slots, self._last)

    def see(self, look: _Look) -> _Seen | None:
        """What every head of every row sees, [R * H] rows, or None where there are no rows."""
        if not len(self._slots):
            return None
        if look.window not in self._looks:
            window = look.window
            first = (self._position - window + 1).clamp_(min=0) if window else torch.zeros_like(self._last)
            self._looks[window] = Looks(self._slots, first, self._last)
        keys, values = self._cache.keys[look.layer], self._cache.values[look.layer]
        seen, total = self._ours.attend(look.queries, keys, values, self._looks[look.window], look.scale)
        return _Seen(seen.view(-1, seen.shape[-1]), total.view(-1))


class _Part:
    """One of the two caches, as the rows of a step look into it; not all of them need to."""

    def __init__(self, cache: Cache, rows: Sequence[_Row], num_rows: int, minimum: int) -> None:
        self._tables = [_Table(cache, lists, width, minimum) for lists, width in _divided(rows)]
        self._num_rows = num_rows
        self._views: dict[int, tuple[list[_Table], _Back | None]] = {}

    def see(self, look: _Look) -> _Seen | None:
        """What every head of every row sees, [R * H] rows, or None where nobody sees anything."""
        if look.window not in self._views:
            self._views[look.window] = self._view(look)
        tables, back = self._views[look.window]
        if not tables:
            return None
        found = [table.see(look) for table in tables]
        seen, total = found[0].seen, found[0].total
        if back is None:
            return found[0]
        if not back.whole:
            seen = torch.cat([*(f.seen for f in found), seen.new_zeros((1, seen.shape[1]))])
            total = torch.cat([*(f.total for f in found), total.new_full((1,), -torch.inf)])
        return _Seen(seen.index_select(0, back.places), total.index_select(0, back.places))

    def _view(self, look: _Look) -> tuple[list[_Table], _Back | None]:
        """The tables in which anything is seen, and where each row's heads stand in what they give one after another
        (after all of it where they see nothing); None where they stand there in order."""
        tables = [table for table in self._tables if table.length > table.first(look.window)]
        num_heads, device = look.queries.shape[1], look.queries.device
        total = sum(table.num_queries(num_heads) for table in tables)
        back = torch.full((self._num_rows, num_heads), total, device=device)
        start = 0
        for table in tables:
            back[table.rows] = start + table.places(num_heads)
            start += table.num_queries(num_heads)
        if back.numel() == total and torch.equal(back.view(-1), torch.arange(total, device=device)):
            return tables, None
        return tables, _Back(back.view(-1), len(tables) == 1 and bool((back < total).all()))


def _divided(rows: Sequence[_Row]) -> list[tuple[list[list[_Row]], int]]:
    """Rows by the slots they look into, neighbouring slots with equally many rows each, and how many that is.

    Slots close to each other are served together, each with as many rows as all have on average; what a slot has
    beyond that, it serves alone.
    """
    by_slot: dict[int, list[_Row]] = {}
    for row in rows:
        by_slot.setdefault(row.slot, []).append(row)
    slots = sorted(by_slot)
    if not slots or slots[-1] - slots[0] >= 2 * len(slots):
        return [([by_slot[slot]], len(by_slot[slot])) for slot in slots]
    width = len(rows) // len(slots)
    together = [by_slot.get(slot, [])[:width] for slot in range(slots[0], slots[-1] + 1)]
    rest = [by_slot[slot][width:] for slot in slots if len(by_slot[slot]) > width]
    first = slots[0]
    return [([r if r else [_Row(-1, first + i, -1, 0)] for i, r in enumerate(together)], width)] + [
        ([left], len(left)) for left in rest
    ]


class _Table:
    """Neighbouring slots, each serving up to `width` rows."""

    def __init__(self, cache: Cache, lists: Sequence[Sequence[_Row]], width: int, minimum: int) -> None:
        self._cache, self._slot, self._shape, device = cache, lists[0][0].slot, (len(lists), width), cache.device
        present = [(s, w, row) for s, rows in enumerate(lists) for w, row in enumerate(rows) if row.row >= 0]
        last = max(row.last for _, _, row in present)
        self.length = padded(max(last + 1, minimum), cache.step)
        self._nearest = min(row.position for _, _, row in present)
        self.rows = torch.tensor([row.row for _, _, row in present], device=device)
        at = torch.tensor([[s, w] for s, w, _ in present], device=device)
        self._at_slot, self._at_row = at[:, 0], at[:, 1]
        # of absent rows: they look at nothing, and nobody reads what they see
        self._last_SW, self._position_SW, self._row_SW = (
            torch.full(self._shape, absent, device=device) for absent in (-1, 0, 0)
        )
        for table, values in (
            (self._last_SW, [row.last for _, _, row in present]),
            (self._position_SW, [row.position for _, _, row in present]),
            (self._row_SW, [row.row for _, _, row in present]),
        ):
            table[self._at_slot, self._at_row] = torch.tensor(values, device=device)
        self._asked: Tensor | None = None
        self._masks: dict[int, Tensor] = {}

    def first(self, window: int) -> int:
        """The first place that any row looks at, a whole number of blocks."""
        return max(0, self._nearest - window + 1) // BLOCK * BLOCK if window else 0

    def _per_slot(self, num_heads: int) -> int:
        """Query rows of one slot and key head, those that fill up included."""
        num_kv_heads = self._cache.num_kv_heads
        wanted, unit = self._shape[1] * num_heads // num_kv_heads, QUERY_ROWS
        if self._shape[0] * num_kv_heads == 1:
            unit = LONE_ROWS
        return -(-wanted // unit) * unit

    def num_queries(self, num_heads: int) -> int:
        """How many rows `see` gives."""
        return self._shape[0] * self._cache.num_kv_heads * self._per_slot(num_heads)

    def places(self, num_heads: int) -> Tensor:
        """Where the heads of `rows` stand in what `see` gives, [rows, H]."""
        num_kv_heads, group = self._cache.num_kv_heads, num_heads // self._cache.num_kv_heads
        head = torch.arange(num_heads, device=self.rows.device)
        slot_and_key = self._at_slot[:, None] * num_kv_heads + head // group
        return slot_and_key * self._per_slot(num_heads) + self._at_row[:, None] * group + head % group

    def see(self, look: _Look) -> _Seen:
        """What all query rows see, [S * K * Q] of them, those that fill up included."""
        num_heads, width = look.queries.shape[1:]
        if self._asked is None:
            self._asked = self._queries(num_heads)
        if look.window not in self._masks:
            self._masks[look.window] = self._mask(look.window, num_heads, look.queries.dtype)
        first, num = self.first(look.window), self._shape[0] * self._cache.num_kv_heads
        start = self._slot * self._cache.num_kv_heads
        keys, values = (
            held[look.layer].view(-1, self._cache.capacity, width)[start : start + num, first : self.length]
            for held in (self._cache.keys, self._cache.values)
        )
        query = look.queries.reshape(-1, width).index_select(0, self._asked).view(num, -1, width)
        scores = torch.baddbmm(self._masks[look.window], query, keys.transpose(1, 2), alpha=look.scale)
        weights = scores.softmax(-1)
        seen = torch.bmm(weights[..., :BLOCK], values[:, :BLOCK])
        for begin in range(BLOCK, self.length - first, BLOCK):
            seen = torch.baddbmm(seen, weights[..., begin : begin + BLOCK], values[:, begin : begin + BLOCK])
        # the largest weight is one over the sum of exponentials
        total = scores.amax(-1).float().view(-1) - _lined(torch.log, weights.amax(-1).float().view(-1))
        return _Seen(seen.view(-1, width), total)

    def _queries(self, num_heads: int) -> Tensor:
        """Which of the R * H queries each of the S * K * Q query rows is."""
        num_kv_heads, group = self._cache.num_kv_heads, num_heads // self._cache.num_kv_heads
        head = torch.arange(num_heads, device=self.rows.device).view(num_kv_heads, 1, group)
        asked = (self._row_SW[:, None, :, None] * num_heads + head).flatten(2)
        return functional.pad(asked, (0, self._per_slot(num_heads) - asked.shape[2])).reshape(-1)

    def _mask(self, window: int, num_heads: int, dtype: torch.dtype) -> Tensor:
        """What is added to the scores, [S * K, Q, L]: finite, for a row may see nothing at all."""
        num_kv_heads, group = self._cache.num_kv_heads, num_heads // self._cache.num_kv_heads
        place = torch.arange(self.first(window), self.length, device=self.rows.device)
        hidden_SWL = place > self._last_SW[..., None]
        if window:
            hidden_SWL |= place <= self._position_SW[..., None] - window
        mask_SWL = torch.zeros(hidden_SWL.shape, dtype=dtype, device=place.device)
        mask_SWL.masked_fill_(hidden_SWL, torch.finfo(dtype).min / 2)
        wide = mask_SWL[:, None, :, None].expand(-1, num_kv_heads, -1, group, -1).flatten(2, 3).flatten(0, 1)
        return functional.pad(wide, (0, 0, 0, self._per_slot(num_heads) - wide.shape[1]))


def _lined(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """The function of every number, in whole lines."""
    return function(functional.pad(values, (0, -len(values) % LINE)))[: len(values)]
