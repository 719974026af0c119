"""How the tokens of a row are cut among the ranks of a ring, and which of them see which.

A row of documents is cut as one sequence, whatever their lengths: nothing is padded, ranks may differ by a token or
two, and of a row of a few tokens some hold none. Zigzag (Llama 3, arXiv 2407.21783; ring-flash-attention): 2W chunks,
rank r holds chunks r and 2W-1-r. Striped (Brandon et al. 2023, arXiv 2311.09431): rank r holds every W-th token.
Contiguous: W chunks, of which causal attention gives the last rank nearly twice the mean work. What a rank's queries
see of a block of keys is a list of `Piece`s, bands in rectangles of neighbouring tokens: no mask of the whole is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from rung.base.errors import ModelError
from rung.models.parallel.layout import Order

__all__ = ["Cut", "Piece"]

_TILE = 128


@dataclass(frozen=True, slots=True)
class Piece:
    """Queries [q_start, q_stop) of a rank and keys [k_start, k_stop) of a block, numbered from these starts: query i
    sees key j exactly if 0 <= i + lead - j, and < `window` when that is not 0. None sees nothing or is seen by none."""

    q_start: int
    q_stop: int
    k_start: int
    k_stop: int
    lead: int
    window: int = 0

    @property
    def is_full(self) -> bool:
        """Every query sees every key."""
        furthest = self.q_stop - self.q_start - 1 + self.lead
        return self.lead >= self.k_stop - self.k_start - 1 and (not self.window or furthest < self.window)

    @property
    def is_causal(self) -> bool:
        """Query i sees the keys up to i, and nothing hides the first."""
        return self.lead == 0 and (not self.window or self.window >= self.q_stop - self.q_start)

    @property
    def work(self) -> int:
        """How many pairs of query and key see each other."""
        num_keys = self.k_stop - self.k_start
        tops = (i + self.lead for i in range(self.q_stop - self.q_start))
        return sum(min(top, num_keys - 1) - max(top - self.window + 1 if self.window else 0, 0) + 1 for top in tops)

    def trimmed(self) -> Piece | None:
        """Without queries that see nothing and keys that nobody sees; None when nothing is left."""
        first_query = self.q_start + max(0, -self.lead)
        last_query = self.q_stop
        if self.window:
            last_query = min(last_query, self.q_start + self.k_stop - self.k_start + self.window - 1 - self.lead)
        if first_query >= last_query:
            return None
        first_lead = self.lead + first_query - self.q_start
        last_lead = self.lead + last_query - 1 - self.q_start
        first_key = self.k_start + (max(0, first_lead - self.window + 1) if self.window else 0)
        last_key = min(self.k_stop, self.k_start + last_lead + 1)
        if first_key >= last_key:
            return None
        lead = first_lead - (first_key - self.k_start)
        return Piece(first_query, last_query, first_key, last_key, lead, self.window)

    def tiles(self, most: int) -> Iterable[Piece]:
        """The same in pieces of at most `most` queries (0: as many as there are)."""
        step = most or self.q_stop - self.q_start
        for start in range(self.q_start, self.q_stop, step):
            stop, lead = min(start + step, self.q_stop), self.lead + start - self.q_start
            tile = replace(self, q_start=start, q_stop=stop, lead=lead).trimmed()
            if tile is not None:
                yield tile


@dataclass(frozen=True, slots=True)
class _Span:
    """Neighbouring tokens of one document on one rank: they begin at `start` of the row and at `at` of the rank, and
    `stride` tokens of the row lie from one to the next."""

    document: int
    start: int
    at: int
    length: int
    stride: int

    def onto(self, other: _Span, window: int) -> Piece:
        """What these tokens see of the other's: `lead` is how many of its steps its first lies before our first."""
        distance = self.start - other.start
        lead = distance // self.stride
        rest = distance - lead * self.stride
        limit = -(-(window - rest) // self.stride) if window else 0
        piece = Piece(self.at, self.at + self.length, other.at, other.at + other.length, lead, limit)
        return replace(piece, lead=-self.length) if window and limit <= 0 else piece


class Cut:
    """A row of documents, cut for `num_ranks` ranks.

    Args:
        lengths: of its documents, in order.
        num_ranks: of the ring.
        order: see the top of this file.
        query_block: most queries of a piece (0: no limit).

    Raises:
        ModelError: a document has no token.
    """

    def __init__(self, lengths: Sequence[int], num_ranks: int, order: Order = "zigzag", query_block: int = 0) -> None:
        self.lengths, self.num_ranks, self.order, self.query_block = tuple(lengths), num_ranks, order, query_block
        self.num_tokens = sum(self.lengths)
        if min(self.lengths, default=0) < 1:
            raise ModelError("a document must have at least one token", place="Cut")
        self._spans = [self._spans_of(rank) for rank in range(num_ranks)]
        self._pieces: dict[tuple[int, int, int], tuple[Piece, ...]] = {}

    def indices(self, rank: int) -> list[int]:
        """The places in the row of the rank's tokens, rising."""
        return [place for start, stop, step in self._runs(rank) for place in range(start, stop, step)]

    def num_held(self, rank: int) -> int:
        """How many tokens the rank holds."""
        return sum(span.length for span in self._spans[rank])

    def pieces(self, rank: int, source: int, window: int) -> tuple[Piece, ...]:
        """What the rank's queries see of the block of keys that `source` holds."""
        key = (rank, source, window)
        if key not in self._pieces:
            self._pieces[key] = tuple(self._find(rank, source, window))
        return self._pieces[key]

    def work(self, rank: int, window: int = 0) -> int:
        """Pairs of query and key that the rank computes in all rounds."""
        return sum(piece.work for source in range(self.num_ranks) for piece in self.pieces(rank, source, window))

    def _find(self, rank: int, source: int, window: int) -> Iterable[Piece]:
        mine, theirs = (self._neighbours(of, whole=rank == source and not window) for of in (rank, source))
        found: list[Piece] = []
        for own in (span for spans in mine.values() for span in spans):
            for other in theirs.get(own.document, ()):
                piece = own.onto(other, window).trimmed()
                if piece is not None:
                    found.append(piece)
        limit = min(filter(None, (self.query_block, max(window, _TILE) if window else 0)), default=0)
        for piece in _joined(found):
            unmasked = piece.is_full or piece.is_causal
            yield from piece.tiles(self.query_block if unmasked else limit)

    def _neighbours(self, rank: int, whole: bool) -> dict[int, list[_Span]]:
        """A rank's spans by document. `whole`: those of a document as one, which among themselves they are: the rank
        holds them side by side, in order."""
        found: dict[int, list[_Span]] = {}
        for span in self._spans[rank]:
            found.setdefault(span.document, []).append(span)
        if not whole:
            return found
        return {key: [replace(spans[0], length=sum(s.length for s in spans))] for key, spans in found.items()}

    def _runs(self, rank: int) -> list[tuple[int, int, int]]:
        """(start, stop, step) of the places that the rank holds."""
        ranks, tokens = self.num_ranks, self.num_tokens
        if self.order == "striped":
            return [(rank, tokens, ranks)]
        chunks = [rank] if self.order == "contiguous" else [rank, 2 * ranks - 1 - rank]
        count = ranks if self.order == "contiguous" else 2 * ranks
        return [(tokens * chunk // count, tokens * (chunk + 1) // count, 1) for chunk in chunks]

    def _spans_of(self, rank: int) -> list[_Span]:
        ends = list(accumulate(self.lengths))
        found, at = [], 0
        for start, stop, step in self._runs(rank):
            for document, end in enumerate(ends):
                first, last = max(start, end - self.lengths[document]), min(stop, end)
                first += (start - first) % step
                if first < last:
                    found.append(_Span(document, first, at, -(-(last - first) // step), step))
                    at += found[-1].length
        return found


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces, neighbours that every query of both sees whole made one: fewer and larger products."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last is not None and last.is_full and piece.is_full and not piece.window:
            if (last.q_start, last.q_stop, last.k_stop) == (piece.q_start, piece.q_stop, piece.k_start):
                found[-1] = replace(last, k_stop=piece.k_stop, lead=piece.k_stop - last.k_start)
                continue
            if (last.k_start, last.k_stop, last.q_stop) == (piece.k_start, piece.k_stop, piece.q_start):
                found[-1] = replace(last, q_stop=piece.q_stop)
                continue
        found.append(piece)
    return found
