"""Repair or refuse: JSON with the slips that models make is mended where only one reading is left, and refused where a
value would have to be guessed.

Mended: code fences and what stands outside them, comments, single quotes, `True`, `False` and `None`, commas before a
closing bracket, line ends inside strings, and brackets that are missing at the very end. Refused, among others: a
string without an end and a number that the text ends with (how they go on is unknown), a key without a value, two
commas in a row, a key that comes twice, brackets that do not match, text before or after.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from rung.base.errors import DataError
from rung.records.json_text import place_in, read_json

__all__ = ["Repair", "Repaired", "repair_json"]

_DEEPEST = 200
_FENCE = re.compile(
    r"\A[^\[{]*?^[ \t]*```[A-Za-z0-9]*[ \t]*\n(?P<inside>.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE
)
_ANOTHER = re.compile(r"^[ \t]*```", re.MULTILINE)
_SPACE = re.compile(r"[ \t\r\n]+")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z_]+")
_QUOTED = {
    '"': re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL),
    "'": re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL),
}
_UNIT = re.compile(r'\\.|["\x00-\x1f]', re.DOTALL)
_WORDS = {"true": True, "false": False, "null": None}
_PYTHONS = {"True": True, "False": False, "None": None}


@dataclass(frozen=True, slots=True)
class Repair:
    """What was mended, and where (line and column)."""

    what: str
    place: str


@dataclass(frozen=True, slots=True)
class Repaired:
    """The value, and all repairs in the order of the text (none: it was JSON)."""

    value: Any
    repairs: tuple[Repair, ...]


def repair_json(text: str) -> Repaired:
    """The value of a text that is JSON but for a few slips.

    Raises:
        DataError: a repair would be a guess; with line and column.
    """
    try:
        return Repaired(read_json(text), ())
    except DataError:
        return _Mender(text).mend()


class _Mender:
    """Reads on from a position, and notes what it puts right."""

    def __init__(self, text: str) -> None:
        self._text, self._place, self._end = text, 0, len(text)
        self._repairs: list[Repair] = []
        self._depth = 0

    def mend(self) -> Repaired:
        """All of the text."""
        if fence := _FENCE.match(self._text):
            self._note("a code fence taken off", fence.start("inside"))
            self._place, self._end = fence.span("inside")
            if another := _ANOTHER.search(self._text, fence.end()):
                self._refuse("a second code fence: which of them is meant would be a guess", another.start())
        value = self._value()
        self._space()
        if self._place < self._end:
            self._refuse("something follows the value")
        return Repaired(value, tuple(self._repairs))

    def _value(self) -> Any:
        self._space()
        sign = self._sign()
        if sign in ("{", "["):
            return self._nested(sign)
        if sign in _QUOTED:
            return self._string(sign)
        if sign == "-" or sign.isdigit():
            return self._number()
        return self._word()

    def _nested(self, sign: str) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._refuse(f"more than {_DEEPEST} brackets are open")
        value = self._object() if sign == "{" else self._array()
        self._depth -= 1
        return value

    def _object(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._place += 1
        while not self._closed("}", bool(found)):
            start, sign = self._place, self._sign()
            if sign not in _QUOTED:
                self._refuse("a key in quotes is missing")
            name = self._string(sign)
            if name in found:
                self._refuse(f"the key {name!r} comes twice", start)
            self._space()
            if self._sign() != ":":
                self._refuse(f"the key {name!r} has no value")
            self._place += 1
            found[name] = self._value()
        return found

    def _array(self) -> list[Any]:
        found: list[Any] = []
        self._place += 1
        while not self._closed("]", bool(found)):
            found.append(self._value())
        return found

    def _closed(self, bracket: str, has_some: bool) -> bool:
        """Whether the bracket comes now, or the text ends; else past the comma that must stand before what follows."""
        self._space()
        comma = self._place
        if has_some and self._sign() == ",":
            self._place += 1
            self._space()
        parted = self._place > comma
        if self._place == self._end:
            self._note(f"'{bracket}' added at the end", self._end)
            return True
        if self._sign() == bracket:
            if parted:
                self._note("a comma before a closing bracket taken out", comma)
            self._place += 1
            return True
        if has_some and not parted:
            self._refuse(f"',' or '{bracket}' is missing")
        return False

    def _string(self, quote: str) -> str:
        found = _QUOTED[quote].match(self._text, self._place, self._end)
        if found is None:
            self._refuse("the string has no end, and where it ends would be a guess")
        if quote == "'":
            self._note("single quotes made double", self._place)
        self._place = found.end()
        body = _UNIT.sub(lambda unit: self._unit(unit, found.start(1)), found[1])
        try:
            value = str(json.loads(f'"{body}"'))
            value.encode()
        except ValueError as error:  # UnicodeEncodeError is one: half of a surrogate pair
            self._refuse(f"the string is wrong: {error}", found.start())
        return value

    def _unit(self, unit: re.Match[str], start: int) -> str:
        """An escape, a quote or a control character as it has to stand between double quotes."""
        letter = unit[0]
        if letter == "\\'":
            return "'"
        if letter >= " ":
            return '\\"' if letter == '"' else letter
        self._note("a control character in a string escaped", start + unit.start())
        return json.dumps(letter)[1:-1]

    def _number(self) -> Any:
        found = _NUMBER.match(self._text, self._place, self._end)
        if found is None:
            self._refuse("this is no number")
        if found.end() == self._end and self._depth:
            self._refuse("the text ends with a number, and whether it goes on would be a guess")
        try:
            value = read_json(found[0])
        except DataError as error:
            self._refuse(error.message)
        self._place = found.end()
        return value

    def _word(self) -> Any:
        found = _WORD.match(self._text, self._place, self._end)
        if found is None or found[0] not in _WORDS | _PYTHONS:
            self._refuse("a value is missing" if found is None else f"{found[0]!r} is no value")
        if found[0] in _PYTHONS:
            self._note(f"{found[0]} written as JSON", self._place)
        self._place = found.end()
        return (_WORDS | _PYTHONS)[found[0]]

    def _space(self) -> None:
        """Go past white space and comments."""
        while True:
            if found := _SPACE.match(self._text, self._place, self._end):
                self._place = found.end()
            elif found := _COMMENT.match(self._text, self._place, self._end):
                self._note("a comment taken out", self._place)
                self._place = found.end()
            else:
                return

    def _sign(self) -> str:
        return self._text[self._place] if self._place < self._end else ""

    def _note(self, what: str, place: int) -> None:
        self._repairs.append(Repair(what, place_in(self._text, place)))

    def _refuse(self, message: str, place: int | None = None) -> NoReturn:
        where = place_in(self._text, self._place if place is None else place)
        raise DataError(message, place=where, hint="ask again, with the constraint json_schema where there is one")
