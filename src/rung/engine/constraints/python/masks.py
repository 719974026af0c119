"""Which tokens may come next: the vocabulary read once per lexer mode, then only sequences of terminals per mask.

What a token's bytes mean depends on the lexer's mode alone. For a mode the vocabulary therefore falls into groups that
end the same terminals and leave the lexer in the same mode; most tokens share a few groups. A mask asks the parser
about groups, and is remembered by mode and place (compare the adaptive mask cache of XGrammar, Dong et al. 2024,
arXiv 2411.15100, and the accept sequences of SynCode, Ugare et al. 2024, arXiv 2403.01632).

Legend: V vocabulary.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rung.engine.constraints.protocol import Vocabulary
from rung.engine.constraints.python.closing import Closing
from rung.engine.constraints.python.lexer import Lexer
from rung.engine.constraints.python.modes import Mode
from rung.engine.constraints.python.parser import ENDLESS, Parser, Place

__all__ = ["Mask", "Masks"]

Ids = NDArray[np.int32]
Groups = dict[tuple[tuple[int, ...], Mode], list[Ids]]
_MOST_MASKS = 512
# no UTF-8 text holds it: the start of a word and this sorts behind every word that starts alike
_AFTER_ALL = b"\xff"
# smaller parts of the vocabulary are read again rather than remembered
_WORTH_KEEPING = 24


@dataclass(slots=True)
class _Branch:
    """Tokens that end one sequence of terminals, and the longer sequences."""

    ends: list[tuple[Mode, int, Ids]] = field(default_factory=list)
    longer: dict[int, _Branch] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mask:
    """The tokens that may follow one mode and place: per group the bytes needed after it, all of them, and whether
    the text is complete."""

    groups: tuple[tuple[int, Ids], ...]
    allowed: NDArray[np.bool_]
    most: int
    complete: bool

    def within(self, bound: int) -> NDArray[np.bool_]:
        """The tokens after which `bound` bytes suffice, bool [V]; end tokens not among them."""
        if bound >= self.most:
            return self.allowed.copy()
        allowed = np.zeros_like(self.allowed)
        for need, ids in self.groups:
            if need <= bound:
                allowed[ids] = True
        return allowed


class Masks:
    """The masks of one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, lexer: Lexer, parser: Parser, closing: Closing) -> None:
        self._size = len(vocabulary.tokens)
        self._lexer, self._parser, self._closing = lexer, parser, closing
        named = [(word, place) for place, word in enumerate(vocabulary.tokens) if word and _AFTER_ALL not in word]
        ends = frozenset(vocabulary.end_ids)
        named = sorted(pair for pair in named if pair[1] not in ends)
        self._words = [word for word, _ in named]
        self._ids = np.array([place for _, place in named], dtype=np.int32)
        self._numbers: dict[Mode, int] = {}
        self._branches: dict[Mode, _Branch] = {}
        self._parts: dict[tuple[Mode, int, int, int], Groups] = {}
        self._masks: OrderedDict[tuple[Mode, Place], Mask] = OrderedDict()

    def need(self, mode: Mode, place: Place) -> int:
        """Bytes that suffice to complete the text from here."""
        return self._closing.need(mode, self._number(mode), place)

    def mask(self, mode: Mode, place: Place) -> Mask:
        """What may follow here."""
        key = (mode, place)
        mask = self._masks.get(key)
        if mask is None:
            if self._parser.tidy():
                self._masks.clear()
            mask = self._masks[key] = self._made(mode, place)
            if len(self._masks) > _MOST_MASKS:
                self._masks.popitem(last=False)
        self._masks.move_to_end(key)
        return mask

    def _made(self, mode: Mode, place: Place) -> Mask:
        allowed = np.zeros(self._size, dtype=np.bool_)
        groups = tuple(self._reached(self._branch(mode), place))
        for _, ids in groups:
            allowed[ids] = True
        most = max((need for need, _ in groups), default=0)
        return Mask(groups, allowed, most, self._closing.complete(mode, place))

    def _reached(self, branch: _Branch, place: Place) -> Iterator[tuple[int, Ids]]:
        """Groups that the parser lets pass and that can be completed."""
        for mode, number, ids in branch.ends:
            need = self._closing.need(mode, number, place)
            if need < ENDLESS:
                yield need, ids
        for terminal, longer in branch.longer.items():
            after = self._parser.step(place, terminal)
            if after is not None:
                yield from self._reached(longer, after)

    def _number(self, mode: Mode) -> int:
        return self._numbers.setdefault(mode, len(self._numbers))

    def _branch(self, mode: Mode) -> _Branch:
        """The groups of a mode as a tree over terminals."""
        if mode not in self._branches:
            root = self._branches[mode] = _Branch()
            for (terminals, after), ids in self._part(mode, 0, len(self._words), 0).items():
                branch = root
                for terminal in terminals:
                    branch = branch.longer.setdefault(terminal, _Branch())
                branch.ends.append((after, self._number(after), np.concatenate(ids)))
        return self._branches[mode]

    def _part(self, mode: Mode, low: int, high: int, depth: int) -> Groups:
        """The groups of words low to high, which share their first `depth` bytes, read from byte `depth` on."""
        if high - low == 1:
            return self._one(mode, low, depth)
        key = (mode, low, high, depth)
        if key in self._parts:
            return self._parts[key]
        groups: Groups = {}
        first = low
        while first < high and len(self._words[first]) == depth:
            first += 1
        if first > low:
            groups[(), mode] = [self._ids[low:first]]
        while first < high:
            last = bisect_right(self._words, self._words[first][: depth + 1] + _AFTER_ALL, first, high)
            self._add(groups, mode, (first, last, depth))
            first = last
        if high - low >= _WORTH_KEEPING:
            self._parts[key] = {kind: [np.concatenate(ids)] for kind, ids in groups.items()}
        return groups

    def _add(self, groups: Groups, mode: Mode, part: tuple[int, int, int]) -> None:
        """Add the words of a part, which share one more byte."""
        first, last, depth = part
        read = self._lexer.step(mode, self._words[first][depth])
        if read is not None:
            for (terminals, after), ids in self._part(read[1], first, last, depth + 1).items():
                groups.setdefault((read[0] + terminals, after), []).extend(ids)

    def _one(self, mode: Mode, place: int, depth: int) -> Groups:
        """One word to its end."""
        terminals: tuple[int, ...] = ()
        for byte in self._words[place][depth:]:
            read = self._lexer.step(mode, byte)
            if read is None:
                return {}
            terminals, mode = terminals + read[0], read[1]
        return {(terminals, mode): [self._ids[place : place + 1]]}
