"""Prompts into the cache: many at once, what they begin with in common computed only once, and the same bits however
they meet.

Prompts go in by levels of `LEVEL` positions. What a slot already holds of a prompt's beginning is copied from there;
the rest goes through the model in one forward with the rest of other prompts, the rows padded to a multiple of `ROWS`,
for fewer or odd counts fall into kernels with other bits (the probe checks that). Attention runs in shapes that a
token's position decides (`PrefillAttend`), so a beginning may be cut off and shared anywhere.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rung.engine.attend import Piece, PrefillAttend
from rung.engine.cache import Cache
from rung.engine.forward import Forward
from rung.engine.tree import num_common

__all__ = ["LEVEL", "ROWS", "Prefill", "Prompt"]

LEVEL = 64
ROWS = 16
_LEAST_SHARED = 4  # a prompt waits for no fewer tokens of another's
_WORTH = 2 * ROWS  # tokens saved that pay for one more forward


@dataclass(frozen=True, slots=True, order=True)
class Prompt:
    """Token ids that lie, or are to lie, in a slot from position 0."""

    ids: tuple[int, ...]
    slot: int

    def until(self, stop: int) -> Prompt:
        """Its first `stop` tokens."""
        return Prompt(self.ids[:stop], self.slot)


class Prefill:
    """Fills slots. `max_rows` bounds the tokens of one forward (a single prompt's may be up to `LEVEL`)."""

    def __init__(self, forward: Forward, cache: Cache, max_rows: int) -> None:
        self._forward, self._cache, self._max_rows = forward, cache, max_rows

    def run(self, arrivals: Sequence[Prompt], held: Sequence[Prompt] = ()) -> None:
        """Put `arrivals` into their slots; `held` are prompts that other slots hold already."""
        longest = max((len(prompt.ids) for prompt in arrivals), default=0)
        self._cache.reserve(longest)
        for start in range(0, longest, LEVEL):
            reach = [p.until(start + LEVEL) for p in arrivals if len(p.ids) > start]
            self._level(start, sorted(reach), sorted(p.until(start + LEVEL) for p in held if len(p.ids) > start))

    def _level(self, start: int, waiting: list[Prompt], there: list[Prompt]) -> None:
        """The level at `start` of all arrivals (`waiting`, sorted); `there` (sorted) are prompts whose level is done.

        Some go first; those that share enough with them wait, and copy it.
        """
        while waiting:
            known = {prompt.slot: _nearest(prompt, there) for prompt in waiting}
            first, waiting = _divided(waiting, {slot: max(start, common) for slot, (_, common) in known.items()})
            pieces = []
            for prompt in first:
                source, common = known[prompt.slot]
                if common > start:
                    self._cache.copy(source, prompt.slot, common, start)
                begin = max(start, common)
                if begin < len(prompt.ids):
                    pieces.append((prompt, Piece(prompt.slot, begin, len(prompt.ids) - begin)))
            self._in_forwards(start, pieces)
            for prompt in first:
                insort(there, prompt)

    def _in_forwards(self, start: int, pieces: Sequence[tuple[Prompt, Piece]]) -> None:
        batch: list[tuple[Prompt, Piece]] = []
        num_rows = 0
        for prompt, piece in pieces:
            if batch and num_rows + piece.length > self._max_rows:
                self.compute(start, batch)
                batch, num_rows = [], 0
            batch.append((prompt, piece))
            num_rows += piece.length
        if batch:
            self.compute(start, batch)

    def compute(self, start: int, pieces: Sequence[tuple[Prompt, Piece]], num_rows: int = 0) -> Tensor:
        """One forward over pieces within the level at `start`; returns the hidden states [1, R, D] of all rows, padding
        last.

        `num_rows` asks for at least so many rows (the probe compares them).
        """
        tokens: list[int] = []
        positions: list[int] = []
        for prompt, piece in pieces:
            stop = piece.start + piece.length
            tokens += prompt.ids[piece.start : stop]
            positions += range(piece.start, stop)
        spare = max(-(-len(tokens) // ROWS) * ROWS, num_rows) - len(tokens)
        attend = PrefillAttend(self._cache, [piece for _, piece in pieces], start, LEVEL)
        return self._forward.hidden([tokens + [0] * spare], [positions + [0] * spare], attend)


def _nearest(prompt: Prompt, there: Sequence[Prompt]) -> tuple[int, int]:
    """The slot that holds most of the prompt's beginning, and how many tokens of it (0 where none does)."""
    place = bisect_left(there, prompt)
    near = [(num_common(prompt.ids, other.ids), other.slot) for other in there[max(0, place - 1) : place + 1]]
    common, slot = max(near, default=(0, prompt.slot))
    return slot, common


def _divided(prompts: Sequence[Prompt], known: dict[int, int]) -> tuple[list[Prompt], list[Prompt]]:
    """Who goes first and who waits for them (both sorted). `known`: tokens of each prompt that are there already.

    A prompt waits where it shares at least `_LEAST_SHARED` more tokens with one that goes first; but unless that saves
    enough, only those wait that then have nothing left to compute.
    """
    first: list[Prompt] = []
    waiting: list[Prompt] = []
    saved = 0
    for prompt in prompts:
        common = num_common(first[-1].ids, prompt.ids) if first else 0
        gain = common - known[prompt.slot]
        if gain >= _LEAST_SHARED or (gain > 0 and common == len(prompt.ids)):
            waiting.append(prompt)
            saved += gain
        else:
            first.append(prompt)
    if saved >= _WORTH:
        return first, waiting
    whole = [p for p in waiting if any(num_common(f.ids, p.ids) == len(p.ids) for f in first)]
    return sorted({*first, *waiting} - {*whole}), whole
