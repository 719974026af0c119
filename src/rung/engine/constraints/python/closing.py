"""How many bytes suffice to complete a program from anywhere: the lexeme first, then what the parser still owes.

Every byte that is counted can be drawn as a token of its own, so the bound in bytes is one in tokens, and at every
place that is not complete some byte makes it smaller by at least one.
"""

from __future__ import annotations

from collections.abc import Iterator

from rung.engine.constraints.python.grammar import IDS, TERMINALS
from rung.engine.constraints.python.language import KEYWORDS, OPERATORS
from rung.engine.constraints.python.lexer import START, pending
from rung.engine.constraints.python.modes import MARK_LETTERS, Body, Kind, Mode
from rung.engine.constraints.python.numbers import NUMBER_REST
from rung.engine.constraints.python.parser import ENDLESS, Parser, Place
from rung.engine.constraints.python.strings import closing
from rung.engine.constraints.utf8 import UTF8_LEFT

__all__ = ["Closing"]

_NEWLINE = IDS["NEWLINE"]
Ending = tuple[tuple[int, ...], int]


class Closing:
    """Bounds on what completes a program.

    Args:
        parser: whose places are asked about.
        finished: states of a character over several bytes that single bytes of the vocabulary can finish.
    """

    def __init__(self, parser: Parser, finished: frozenset[int]) -> None:
        self._parser, self._finished = parser, finished
        self._endings: dict[Mode, tuple[Ending, ...]] = {}

    def complete(self, mode: Mode, place: Place) -> bool:
        """Whether the text may end here."""
        ended = pending(mode)
        reached = None if ended is None else self._through(place, ended)
        own_line = mode.kind == Kind.LINE or (mode.kind == Kind.COMMENT and mode.num == 1)
        return reached is not None and self._parser.ends(reached, not own_line)

    def need(self, mode: Mode, number: int, place: Place) -> int:
        """Bytes that suffice to complete the text; `ENDLESS` or more where it cannot be completed.

        Args:
            mode: where the lexer is.
            number: what the mode is called among the caller's; no two modes share one.
            place: where the parser is.
        """
        known = place.needs.get(number)
        if known is None:
            known = place.needs[number] = self._need(mode, place)
        return known

    def _need(self, mode: Mode, place: Place) -> int:
        if mode.utf8 and mode.utf8 not in self._finished:
            return ENDLESS
        if mode.kind == Kind.LINE:
            return self._line(mode.num, place)
        if self.complete(mode, place):
            return 0
        if mode.kind == Kind.GAP:
            return place.cost
        if mode.kind == Kind.COMMENT:
            return self._comment(mode, place)
        if mode.kind in (Kind.JOIN, Kind.JOINED):
            return self._joined(place) + (mode.kind == Kind.JOIN)
        return min((self._ending(place, ending) for ending in self._endings_of(mode)), default=ENDLESS)

    def _through(self, place: Place | None, terminals: tuple[int, ...]) -> Place | None:
        for terminal in terminals:
            place = self._parser.step(place, terminal) if place is not None else None
        return place

    def _ending(self, place: Place, ending: Ending) -> int:
        """The rest of the lexeme, a space, and what is owed after it."""
        reached = self._through(place, ending[0])
        return ENDLESS if reached is None else ending[1] + 1 + reached.cost

    def _line(self, count: int, place: Place) -> int:
        """At the start of a line: the spaces that lack to the best column."""
        if place.depth:
            return place.cost
        columns = list(self._parser.columns(place))
        if not columns or count > columns[0][0]:
            return ENDLESS
        if self._parser.ends(place, False):
            return 0
        again = 1 + min(column + after.line_cost for column, after in columns)
        return min([column - count + after.line_cost for column, after in columns if column >= count] + [again])

    def _comment(self, mode: Mode, place: Place) -> int:
        """The rest of a character, and the lines after the comment if the program may not end with it."""
        after = place if mode.num else self._parser.step(place, _NEWLINE)
        if after is None:
            return ENDLESS
        whole = self.complete(mode._replace(utf8=0), place)
        return UTF8_LEFT[mode.utf8] + (0 if whole else 1 + self._line(START.num, after))

    def _joined(self, place: Place) -> int:
        """After a continued line: any token, but one there must be."""
        found = [
            self._ending(place, ((terminal,), len(TERMINALS[terminal]) if TERMINALS[terminal] in _SPELT else 3))
            for terminal in range(len(TERMINALS))
            if terminal != _NEWLINE and place.takes(terminal)
        ]
        return min(found, default=ENDLESS)

    def _endings_of(self, mode: Mode) -> tuple[Ending, ...]:
        if mode not in self._endings:
            self._endings[mode] = tuple(_endings(mode))
        return self._endings[mode]


_SPELT = frozenset((*KEYWORDS, *OPERATORS))


def _endings(mode: Mode) -> Iterator[Ending]:
    """Ways in which the lexeme being read can end: its terminals, and the bytes they still take."""
    if mode.kind == Kind.WORD:
        yield from _word_endings(mode)
    elif mode.kind == Kind.NUMBER:
        yield (IDS["NUMBER"],), NUMBER_REST[mode.text]
    elif mode.kind == Kind.OPERATOR:
        yield from _operator_endings(mode)
    elif mode.kind == Kind.OPENED:
        yield (IDS["FOPEN"],), 0
    elif mode.kind in (Kind.WIDTH, Kind.CONVERTED):
        yield (IDS["FCLOSE"],), 1 + UTF8_LEFT[mode.utf8]
    elif mode.body is not None:
        yield _string_ending(mode, mode.body)


def _word_endings(mode: Mode) -> Iterator[Ending]:
    yield (IDS["NAME"],), int(mode.text in KEYWORDS)
    if mode.text:
        for word in KEYWORDS:
            if word.startswith(mode.text):
                yield (IDS[word],), len(word) - len(mode.text)
        marks = [mark.lower() for mark in MARK_LETTERS if mark.startswith(mode.text)]
        for mark in marks:
            if "f" not in mark:
                yield (IDS["BYTES" if "b" in mark else "STRING"],), len(mark) - len(mode.text) + 2
            elif mode.frame is None:
                yield (IDS["FSTART"], IDS["FEND"]), len(mark) - len(mode.text) + 2


def _operator_endings(mode: Mode) -> Iterator[Ending]:
    for text in OPERATORS:
        if text.startswith(mode.text):
            yield (IDS[text],), len(text) - len(mode.text)
    if mode.text == ".":
        yield (IDS["NUMBER"],), 1
    if mode.text == "..":
        yield (IDS["."], IDS["."]), 0
    if mode.text == "!" and mode.frame and mode.frame.depth == 0:
        yield (IDS["CONVERSION"],), 1


def _string_ending(mode: Mode, body: Body) -> Ending:
    """The closing quotes, after what an escape or a character still lacks."""
    quotes = closing(body) - mode.num if mode.kind == Kind.TEXT else closing(body)
    if mode.kind in (Kind.QUOTE, Kind.QUOTES):
        left = int(mode.kind == Kind.QUOTE)
        return ((IDS["FSTART"], IDS["FEND"]) if body.formatted else (_literal(body),)), left
    lacking = {Kind.ESCAPE: 1, Kind.HEX: mode.num, Kind.POINT: 8 - len(mode.text), Kind.CLOSED: 1}
    return (_literal(body),), quotes + lacking.get(mode.kind, UTF8_LEFT[mode.utf8])


def _literal(body: Body) -> int:
    return IDS["FEND"] if body.formatted else IDS["BYTES" if body.is_bytes else "STRING"]
