"""A grammar as a constraint: which tokens fit a place, and what each of them leaves to be done.

Legend: V vocabulary.

Tokens are walked through the grammar all at once, byte by byte, and only the first time a place is met. What is kept is
the number of tokens that suffice to complete the text after each: a limit then is one comparison, so a text that comes
near its limit is held to what can still be closed, without a mode of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rung.base.errors import ModelError
from rung.engine.constraints.places import NEVER, Grammar, Place
from rung.engine.constraints.protocol import Vocabulary
from rung.engine.constraints.text import Rules

__all__ = ["Fitting", "GrammarConstraint", "GrammarState", "Spellings"]

_MOST_FORCED = 4096
_MOST_ENTRIES = 20_000_000
_UNKNOWN, _DEAD = -1, -2
_Numbers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class Spellings:
    """The bytes of all tokens as a table, shared by all grammars of a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        known = [(token, data) for token, data in enumerate(vocabulary.tokens) if data]
        self.ids = np.array([token for token, _ in known], dtype=np.int64)
        self.lengths = np.array([len(data) for _, data in known], dtype=np.int64)
        self.bytes = np.zeros((len(known), int(self.lengths.max(initial=1))), dtype=np.uint8)
        for row, (_, data) in enumerate(known):
            self.bytes[row, : len(data)] = np.frombuffer(data, dtype=np.uint8)
        self.starting = [np.flatnonzero(self.bytes[:, 0] == byte) for byte in range(256)]


@dataclass(slots=True)
class Fitting:
    """Tokens that fit a place, the tokens that suffice after each, and the different numbers of these, ascending.

    The mask made last is kept, with how many of the numbers it admits: from one token to the next that seldom changes.
    """

    token_ids: Tensor
    left: Tensor
    steps: list[int]
    end_ids: tuple[int, ...]
    width: int
    level: int = -1
    mask: Tensor = field(default_factory=lambda: torch.zeros(0))
    has_any: bool = False

    def within(self, remaining: int) -> Tensor:
        """The mask of tokens after which fewer than `remaining` suffice, bool [V]."""
        level = bisect_left(self.steps, remaining)
        if level != self.level:
            self.level, self.mask = level, torch.zeros(self.width, dtype=torch.bool)
            self.mask[self.token_ids[self.left < remaining]] = True
            self.mask[list(self.end_ids)] = True
            self.has_any = bool(self.mask.any())
        return self.mask


class GrammarConstraint:
    """A grammar over a vocabulary.

    Raises:
        SettingsError: the grammar has no text that the vocabulary can spell.
    """

    def __init__(self, rules: Rules, spellings: Spellings) -> None:
        self._spellings, self.vocabulary = spellings, spellings.vocabulary
        self.rules, self.grammar = rules, Grammar(rules, self.vocabulary)
        self._fitting: OrderedDict[Place, Fitting] = OrderedDict()
        self._most_kept = max(16, _MOST_ENTRIES // max(1, len(self.vocabulary.tokens)))

    def start(self) -> GrammarState:
        """The place before the first token."""
        return GrammarState(self, self.grammar.start)

    def begun(self, data: bytes) -> GrammarState | None:
        """As `Constraint.begun`."""
        place = self.grammar.start.after(data)
        return GrammarState(self, place) if place is not None and place.cost < NEVER else None

    def fitting(self, place: Place) -> Fitting:
        """What fits a place; the places asked for last are remembered."""
        found = self._fitting.pop(place, None)
        if found is None:
            found = self._find(place)
            if len(self._fitting) >= self._most_kept:
                self._fitting.popitem(last=False)
        self._fitting[place] = found
        return found

    def _find(self, place: Place) -> Fitting:
        rows, left = _walk(place, self._spellings)
        fits = left < NEVER
        token_ids = torch.from_numpy(self._spellings.ids[rows[fits]])
        steps = np.unique(left[fits]).tolist()
        end_ids = self.vocabulary.end_ids if place.cost == 0 else ()
        return Fitting(token_ids, torch.from_numpy(left[fits]), steps, end_ids, len(self.vocabulary.tokens))


class GrammarState:
    """A sequence's place; see `rung.engine.constraints.protocol.State`."""

    def __init__(self, constraint: GrammarConstraint, place: Place) -> None:
        self._constraint, self.place = constraint, place

    def allowed(self, remaining: int) -> Tensor:
        """As `State.allowed`. The mask is shared: not to be changed."""
        fitting = self._constraint.fitting(self.place)
        mask_V = fitting.within(remaining)
        if not fitting.has_any:
            raise ModelError(
                f"no token fits the grammar with {remaining} tokens left, where {self.place.cost} are needed",
                place="constraint",
                hint="the grammar or the vocabulary has a dead end here",
            )
        return mask_V

    def advance(self, token: int) -> None:
        """As `State.advance`.

        Raises:
            ModelError: a token that does not fit.
        """
        data = self._constraint.vocabulary.tokens[token]
        place = self.place.after(data) if data else None
        if place is None:
            raise ModelError(f"token {token} ({data!r}) does not fit the grammar here", place="constraint")
        self.place = place

    def complete(self) -> bool:
        """Whether the text so far is a whole text of the grammar."""
        return self.place.cost == 0

    def over(self) -> bool:
        """Whether it is complete and nothing can follow."""
        return self.complete() and not self.place.edges

    def shortest(self) -> int | None:
        """Tokens that suffice to complete the text."""
        return self.place.cost

    def forced(self) -> bytes:
        """Bytes that must follow."""
        return self.place.forced(_MOST_FORCED)


def _walk(start: Place, spellings: Spellings) -> tuple[_Numbers, _Numbers]:
    """Rows of the tokens that lead somewhere, and the tokens that suffice after each."""
    bits = 0
    for edge, _ in start.edges:
        bits |= edge
    rows = np.concatenate([np.zeros(0, np.int64), *(spellings.starting[b] for b in range(256) if bits >> b & 1)])
    places, leads = [start], np.full((1, 256), _UNKNOWN, dtype=np.int64)
    numbers = {start: 0}
    here = np.zeros(len(rows), dtype=np.int64)
    found_rows, found_left = [], []
    for level in range(spellings.bytes.shape[1]):
        if not len(rows):
            break
        byte = spellings.bytes[rows, level]
        unknown = np.unique((here * 256 + byte)[leads[here, byte] == _UNKNOWN])
        for number, value in ((int(key) // 256, int(key) % 256) for key in unknown):
            place = places[number].step(value)
            if place is not None and place not in numbers:
                numbers[place] = len(places)
                places.append(place)
            leads[number, value] = _DEAD if place is None else numbers[place]
        leads = np.pad(leads, ((0, len(places) - len(leads)), (0, 0)), constant_values=_UNKNOWN)
        here = leads[here, byte]
        alive = here >= 0
        rows, here = rows[alive], here[alive]
        done = spellings.lengths[rows] == level + 1
        cost = np.array([place.cost for place in places], dtype=np.int64)
        found_rows.append(rows[done])
        found_left.append(cost[here[done]])
        rows, here = rows[~done], here[~done]
    if not found_rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(found_rows), np.concatenate(found_left)
