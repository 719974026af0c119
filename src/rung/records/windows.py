"""A part of a token corpus as windows of one length: every token is predicted once, documents do not see each other.

Window i starts at token i * W and holds one token more than W, the first of the next window, so that what follows a
window's last token is predicted too. Where a document ends inside a window the next one starts at position 0 and is
attended to alone; one that is cut by a window's end goes on in the next as a document of its own. The last window is
what remains.

Legend: T token of a row, W window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rung.records.packing import PackedRow
from rung.records.token_shards import TokenShard

__all__ = ["Windows"]


class Windows:
    """The windows of a part.

    Args:
        shard: the part.
        window: tokens predicted from in one window, at most.
        num_documents: only the first so many documents; None is all.
    """

    def __init__(self, shard: TokenShard, window: int, num_documents: int | None = None) -> None:
        self._shard, self._window = shard, window
        self.num_documents = shard.num_documents if num_documents is None else num_documents
        self.num_tokens = int(shard.starts[self.num_documents])
        self.num_bytes = shard.num_bytes(self.num_documents)

    def __len__(self) -> int:
        """Windows; the last may be shorter. One that would predict nothing is none."""
        return max(-(-(self.num_tokens - 1) // self._window), 0)

    @property
    def num_targets(self) -> int:
        """Tokens that are predicted: all but the first of each document."""
        return self.num_tokens - self.num_documents

    def rows(self, indices: Sequence[int], tokens_per_row: int) -> list[PackedRow]:
        """The windows of these numbers in rows of up to `tokens_per_row` tokens (of one window at least)."""
        per_row = max(tokens_per_row // (self._window + 1), 1)
        return [self._row(indices[i : i + per_row]) for i in range(0, len(indices), per_row)]

    def _row(self, indices: Sequence[int]) -> PackedRow:
        pieces = [self._pieces(index) for index in indices]
        lengths = np.concatenate([own for _, own in pieces])
        token_ids = np.concatenate([tokens for tokens, _ in pieces])
        starts = np.cumsum(lengths) - lengths
        positions = np.arange(len(token_ids)) - np.repeat(starts, lengths)
        places = np.flatnonzero(positions > 0)
        counts = lengths - 1
        return PackedRow(
            ids=tuple(f"{self._shard.name}:{index}" for index in indices),
            lengths=tuple(lengths.tolist()),
            token_ids=token_ids,
            positions=positions,
            loss_mask=positions > 0,
            sources=places - 1,
            targets=token_ids[places],
            target_counts=np.repeat(counts, counts),
        )

    def _pieces(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A window's tokens [T], and the lengths of the pieces of documents in it."""
        first = index * self._window
        last = min(first + self._window + 1, self.num_tokens)
        starts = self._shard.starts
        inside = slice(np.searchsorted(starts, first, "right"), np.searchsorted(starts, last, "left"))
        edges = np.concatenate([[first], np.asarray(starts[inside], np.int64), [last]])
        return np.asarray(self._shard.ids[first:last], np.int64), np.diff(edges)
