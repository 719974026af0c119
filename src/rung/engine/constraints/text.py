"""Reads grammars written in GBNF (the notation of llama.cpp) into rules over bytes.

Read are rules, literals, classes of characters, groups, `|`, `* + ? {m} {m,} {m,n}`. Characters become the bytes of
their UTF-8 form; surrogate halves, which are no characters, are in no class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rung.base.errors import SettingsError

__all__ = ["MOST_RULES", "ROOT", "Rules", "Symbol", "read_rules"]

ROOT = "root"
MOST_RULES = 20_000
_WIDER = {"Regex", "Substring", "TagDispatch", "Token", "ExcludeToken", "TokenTagDispatch"}
_TOKEN = re.compile(
    r'\s*(?:(?P<text>"(?:\\.|[^"\\])*")|(?P<chars>\[(?:\\.|[^\]\\])*\])|(?P<assign>::=)|(?P<count>\{[^}]*\})'
    r"|(?P<name>[A-Za-z_][\w.-]*)|(?P<mark>\(=|[()|*+?]))",
    re.DOTALL,
)
_ESCAPE = re.compile(
    r"\\(?:x(?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})|(?P<one>.))", re.DOTALL
)
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "f": "\f", "v": "\v", "b": "\b", "a": "\a"}
_PIECES = ((0x0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF))

Symbol = str | int
"""A rule's name, or a set of bytes as the bits of a number."""


@dataclass(slots=True)
class Rules:
    """Alternatives of every rule, each a sequence of symbols; `shown` are the rules that a parse tree names, and what
    it calls them."""

    by_name: dict[str, list[tuple[Symbol, ...]]] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, alternatives: list[tuple[Symbol, ...]]) -> str:
        """Set a rule; its name."""
        if len(self.by_name) >= MOST_RULES:
            raise SettingsError("the grammar is too large", hint=f"at most {MOST_RULES} rules, repetitions written out")
        self.by_name[name] = alternatives
        return name

    def fresh(self, alternatives: list[tuple[Symbol, ...]]) -> str:
        """Add a rule of our own; its name cannot be a user's."""
        return self.add(f"#{len(self.by_name)}", alternatives)


def read_rules(text: str) -> Rules:
    """The rules of a grammar that is known to be well-formed, `root` among them.

    Raises:
        SettingsError: something of a wider notation (look-ahead, dispatch), which is named.
    """
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._place = 0
        self._rules = Rules()
        self._classes: dict[str, tuple[Symbol, ...]] = {}

    def read(self) -> Rules:
        """All rules."""
        while self._place < len(self._tokens):
            name = self._take()[1]
            self._take()
            self._rules.add(name, [])
            self._rules.by_name[name] = self._alternatives()
            self._rules.shown[name] = name
        return self._rules

    def _kind(self, ahead: int = 0) -> str:
        place = self._place + ahead
        return self._tokens[place][0] if place < len(self._tokens) else ""

    def _is(self, mark: str) -> bool:
        return self._place < len(self._tokens) and self._tokens[self._place] == ("mark", mark)

    def _take(self) -> tuple[str, str]:
        self._place += 1
        return self._tokens[self._place - 1]

    def _alternatives(self) -> list[tuple[Symbol, ...]]:
        found = [self._sequence()]
        while self._is("|"):
            self._take()
            found.append(self._sequence())
        return found

    def _sequence(self) -> tuple[Symbol, ...]:
        symbols: list[Symbol] = []
        while self._kind() in ("text", "chars", "name") or self._is("("):
            if self._kind() == "name" and self._kind(1) == "assign":
                break
            symbols += self._repeated(self._atom())
        if self._is("(="):
            raise SettingsError("look-ahead '(=' is not supported", hint="write the rule without it")
        return tuple(symbols)

    def _atom(self) -> tuple[Symbol, ...]:
        kind, value = self._take()
        if kind == "text":
            return tuple(1 << byte for byte in _encoded(_unescaped(value[1:-1])))
        if kind == "chars":
            return self._class(value)
        if kind == "name":
            if value in _WIDER and self._is("("):
                raise SettingsError(f"'{value}(...)' is not supported", hint="use rules, literals and classes")
            return (value,)
        alternatives = self._alternatives()
        self._take()
        return alternatives[0] if len(alternatives) == 1 else (self._rules.fresh(alternatives),)

    def _class(self, text: str) -> tuple[Symbol, ...]:
        if text not in self._classes:
            sequences = _sequences(_ranges(text))
            same = len(sequences) == 1
            self._classes[text] = sequences[0] if same else (self._rules.fresh(sequences),)
        return self._classes[text]

    def _repeated(self, atom: tuple[Symbol, ...]) -> tuple[Symbol, ...]:
        bounds = self._bounds()
        if bounds is None:
            return atom
        least, most = bounds
        tail: tuple[Symbol, ...] = ()
        if most is None:
            name = self._rules.fresh([])
            self._rules.by_name[name] = [(), (*atom, name)]
            tail = (name,)
        for _ in range((most or least) - least):
            tail = (self._rules.fresh([(), (*atom, *tail)]),)
        for _ in range(least):
            tail = (self._rules.fresh([(*atom, *tail)]),)
        return tail

    def _bounds(self) -> tuple[int, int | None] | None:
        for mark, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._is(mark):
                self._take()
                return bounds
        if self._kind() != "count":
            return None
        least, comma, most = (part.strip() for part in self._take()[1][1:-1].partition(","))
        if not comma:
            return int(least), int(least)
        return int(least), int(most) if most and most != "-1" else None


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    place, end = 0, len(text.rstrip())
    while place < end:
        found = _TOKEN.match(text, place)
        if found is None:
            raise SettingsError(f"cannot read the grammar at {text[place : place + 20]!r}")
        kind = str(found.lastgroup)
        yield kind, found[kind]
        place = found.end()


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise SettingsError(f"{text!r} has half a character", place="constraint") from error


def _unescaped(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        """What an escape stands for."""
        code = found["x"] or found["u"] or found["U"]
        return chr(int(code, 16)) if code else _LETTERS.get(found["one"], found["one"])

    return _ESCAPE.sub(character, text)


def _ranges(text: str) -> list[tuple[int, int]]:
    """Code points of a class, ascending and apart."""
    inside = text[1:-1]
    negated = inside.startswith("^")
    units = [m.group() for m in re.finditer(f"(?:{_ESCAPE.pattern})|.", inside[negated:], re.DOTALL)]
    found, place = [], 0
    while place < len(units):
        low = high = ord(_unescaped(units[place]))
        if place + 2 < len(units) and units[place + 1] == "-":
            high = ord(_unescaped(units[place + 2]))
            place += 2
        found.append((low, high))
        place += 1
    merged: list[tuple[int, int]] = []
    for low, high in sorted(found):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return _others(merged) if negated else merged


def _others(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    edges = [-1, *(edge for pair in ranges for edge in pair), 0x110000]
    return [(a + 1, b - 1) for a, b in zip(edges[::2], edges[1::2], strict=True) if a + 1 <= b - 1]


def _sequences(ranges: list[tuple[int, int]]) -> list[tuple[Symbol, ...]]:
    """The UTF-8 forms of code points: sequences of sets of bytes. One set holds all that are one byte long."""
    single, found = 0, list[tuple[Symbol, ...]]()
    for low, high in ranges:
        for first, last in _PIECES:
            start, stop = max(low, first), min(high, last)
            if start > stop:
                continue
            if stop < 0x80:
                single |= _bits(start, stop)
            else:
                found += _split(chr(start).encode(), chr(stop).encode())
    return [(single,), *found] if single else found


def _split(low: bytes, high: bytes) -> list[tuple[Symbol, ...]]:
    """Equally long encodings from `low` to `high`."""
    if len(low) == 1:
        return [(_bits(low[0], high[0]),)]
    if low[0] == high[0]:
        return [(_bits(low[0], low[0]), *rest) for rest in _split(low[1:], high[1:])]
    most, least = b"\xbf" * (len(low) - 1), b"\x80" * (len(low) - 1)
    found: list[tuple[Symbol, ...]] = []
    start, stop = low[0], high[0]
    if low[1:] != least:
        found += [(_bits(start, start), *rest) for rest in _split(low[1:], most)]
        start += 1
    last = high[1:] != most
    if start <= stop - last:
        found += [(_bits(start, stop - last), *rest) for rest in _split(least, most)]
    if last:
        found += [(_bits(stop, stop), *rest) for rest in _split(least, high[1:])]
    return found


def _bits(first: int, last: int) -> int:
    return (1 << last + 1) - (1 << first)
