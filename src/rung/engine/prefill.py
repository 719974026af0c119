"""Prompts into the cache: many at once, each beginning computed only once, and the same bits however they meet.

A prompt is cut into pieces of `PIECE` tokens, anchored at position 0. A piece attends to its own sequence alone, in
shapes that its place and length decide; pieces of many prompts share the matrix products of one forward, whose rows are
padded to a multiple of `ROWS`, for fewer or odd counts fall into kernels with other bits (the probe checks that). So a
piece may as well be copied from a slot that holds the same beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rung.engine.attend import Cache, Piece, PrefillAttend
from rung.engine.forward import Forward

__all__ = ["PIECE", "ROWS", "Prefill", "Prompt"]

PIECE = 64
ROWS = 16


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids that lie, or are to lie, in a slot from position 0."""

    slot: int
    ids: tuple[int, ...]

    def beginning(self, start: int) -> tuple[int, ...]:
        """Everything up to the end of the piece that begins at `start`."""
        return self.ids[: start + PIECE]


class Prefill:
    """Fills slots. `max_rows` bounds the tokens of one forward (a single piece may need up to `PIECE`)."""

    def __init__(self, forward: Forward, cache: Cache, max_rows: int) -> None:
        self._forward, self._cache, self._max_rows = forward, cache, max_rows

    def run(self, arrivals: Sequence[Prompt], held: Sequence[Prompt] = ()) -> None:
        """Put `arrivals` into their slots; `held` are prompts that other slots hold already."""
        longest = max((len(prompt.ids) for prompt in arrivals), default=0)
        self._cache.reserve(longest)
        for start in range(0, longest, PIECE):
            there = {p.beginning(start): p.slot for p in reversed(held) if len(p.ids) > start}
            self._level(start, [p for p in arrivals if len(p.ids) > start], there)

    def _level(self, start: int, arrivals: Sequence[Prompt], there: dict[tuple[int, ...], int]) -> None:
        """The piece at `start` of every arrival: computed for the first that has it, copied to the others."""
        compute: list[Prompt] = []
        copies: list[tuple[int, Prompt]] = []
        for prompt in arrivals:
            source = there.setdefault(prompt.beginning(start), prompt.slot)
            if source == prompt.slot:
                compute.append(prompt)
            else:
                copies.append((source, prompt))
        batch: list[Prompt] = []
        num_rows = 0
        for prompt in compute:
            length = len(prompt.beginning(start)) - start
            if batch and num_rows + length > self._max_rows:
                self.compute(start, batch)
                batch, num_rows = [], 0
            batch.append(prompt)
            num_rows += length
        if batch:
            self.compute(start, batch)
        for source, prompt in copies:
            self._cache.copy(source, prompt.slot, len(prompt.beginning(start)), start)

    def compute(self, start: int, prompts: Sequence[Prompt], num_rows: int = 0) -> Tensor:
        """One forward over the pieces at `start`; returns the hidden states [1, R, D] of all rows, padding last.

        `num_rows` asks for at least so many rows (the probe compares them).
        """
        tokens: list[int] = []
        positions: list[int] = []
        pieces = []
        for prompt in prompts:
            ids = prompt.beginning(start)[start:]
            tokens += ids
            positions += range(start, start + len(ids))
            pieces.append(Piece(prompt.slot, start, len(ids)))
        spare = max(-(-len(tokens) // ROWS) * ROWS, num_rows) - len(tokens)
        attend = PrefillAttend(self._cache, pieces)
        return self._forward.hidden([tokens + [0] * spare], [positions + [0] * spare], attend)
