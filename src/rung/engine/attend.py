"""Attention of prompts that go into the cache.

Legend: T token, H query heads, K key/value heads, d head width, G groups of one anchor, Q queries of a group, L cached
positions looked at.

The bits of a row may not depend on its neighbours: every shape here is decided by a token's own position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from rung.engine.cache import Cache

__all__ = ["QUERIES", "Piece", "PrefillAttend"]

QUERIES = 16  # prompt positions that attend together


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
