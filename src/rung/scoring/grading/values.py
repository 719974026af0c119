"""What may cross the pipe: plain data, and a number for everything else.

Nothing that a solution made is ever run here. An answer is JSON; from it only exact values of Python's own types are
built (None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, and deque, range, bytearray,
Decimal, Fraction and those of datetime). On the other side subclasses become what they are based on: Counter,
defaultdict and OrderedDict a dict, IntEnum an int, a NumPy scalar a number. A namedtuple and a dataclass keep their
field names; what else is no plain value stays there and becomes a handle.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

__all__ = ["Unacceptable", "decode", "encode", "parse"]

_DEEPEST = 200
_MOST_NODES = 2_000_000
_SMALL = 1 << 62
_MOST_HEX = 1 << 18
_MOST_FIELDS = 100
_MOST_ALIKE = 100
_KEPT = frozenset("or")
_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {"l": list, "t": tuple, "q": collections.deque}
_SETS: dict[str, Callable[[list[Any]], Any]] = {"s": set, "f": frozenset}
_DATES: dict[str, Any] = {"date": datetime.date, "datetime": datetime.datetime, "time": datetime.time}
_BUILTIN_NAMES = {id(value): name for name, value in vars(builtins).items() if callable(value)}


class Unacceptable(Exception):
    """An answer that is no plain data within the limits; it voids the run that it came from."""


def parse(data: bytes) -> Any:
    """The JSON of a frame.

    Raises:
        Unacceptable: it is none, or nested too deeply.
    """
    try:
        return json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise Unacceptable(f"no JSON: {str(error)[:100]}") from error


def decode(sent: Any, kept: Callable[[str, list[Any]], Any]) -> Any:
    """The value that parsed JSON stands for; `kept(tag, rest)` makes what stands for an object left over there.

    Raises:
        Unacceptable: anything but the forms that `encode` and the guest write.
    """
    try:
        return _Decoder(kept).value(sent, 0)
    except (TypeError, ValueError, ArithmeticError, KeyError, AttributeError, IndexError) as error:
        raise Unacceptable(f"no plain value: {str(error)[:100]}") from error


class _Decoder:
    def __init__(self, kept: Callable[[str, list[Any]], Any]) -> None:
        self._kept, self._left = kept, _MOST_NODES

    def value(self, sent: Any, depth: int) -> Any:
        """One value; every type that JSON gives is exact."""
        self._left -= 1
        if sent is None or isinstance(sent, (bool, int, float, str)):
            return sent
        if not isinstance(sent, list) or not sent or not isinstance(sent[0], str):
            raise Unacceptable("a value is a scalar or a list that begins with its kind")
        if depth > _DEEPEST or self._left < 0:
            raise Unacceptable(f"deeper than {_DEEPEST} or more than {_MOST_NODES} values")
        return self._compound(sent[0], sent[1:], depth + 1)

    def _compound(self, tag: str, rest: list[Any], depth: int) -> Any:
        if tag in _SEQUENCES:
            return _SEQUENCES[tag]([self.value(one, depth) for one in rest])
        if tag in _SETS:
            return _SETS[tag](_keys([self.value(one, depth) for one in rest]))
        if tag == "d":
            keys = _keys([self.value(one, depth) for one in rest[::2]])
            return dict(zip(keys, [self.value(one, depth) for one in rest[1::2]], strict=True))
        if tag == "n":
            kind = _named_tuple(_text(rest[0]), tuple(map(_text, rest[1][:_MOST_FIELDS])))
            return kind(*[self.value(one, depth) for one in rest[2:]])
        if tag == "r":
            return self._kept(tag, [*rest[:3], [self.value(one, depth) for one in rest[3:]]])
        return self._kept(tag, rest) if tag in _KEPT else _leaf(tag, rest)


def _leaf(tag: str, rest: list[Any]) -> Any:
    if tag == "i" and len(text := _text(rest[0])) <= _MOST_HEX:
        return int(text, 16)
    if tag == "b":
        return _text(rest[0]).encode("latin-1")
    if tag == "c":
        real, imaginary = rest
        return complex(_number(real), _number(imaginary))
    if tag == "x":
        return _extra(_text(rest[0]), rest[1:])
    raise Unacceptable(f"{tag[:20]!r} is no kind of value, or one too large")


def _extra(name: str, given: list[Any]) -> Any:
    """The library's own types, made from exact numbers and text."""
    given = [_leaf(one[0], one[1:]) if isinstance(one, list) else one for one in given]
    if name in _DATES:
        return _DATES[name].fromisoformat(_text(*given))
    if name == "Decimal":
        return decimal.Decimal(_text(*given)[:10_000])
    if name == "bytearray":
        return bytearray(_text(*given).encode("latin-1"))
    numbers = [_whole(one) for one in given]
    if name == "timedelta":
        return datetime.timedelta(*numbers)
    if name == "Fraction":
        return fractions.Fraction(*numbers)
    if name == "range":
        return range(*numbers)
    raise Unacceptable(f"{name[:20]!r} is no kind of value")


def _text(value: Any) -> str:
    if type(value) is not str:
        raise Unacceptable("text is missing")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise Unacceptable("a whole number is missing")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise Unacceptable("a number is missing")
    return float(value)


def _keys(keys: list[Any]) -> list[Any]:
    """Keys, unless many share a hash: a table of such keys takes the square of their number."""
    if len(keys) > _MOST_ALIKE and max(collections.Counter(map(hash, keys)).values()) > _MOST_ALIKE:
        raise Unacceptable(f"more than {_MOST_ALIKE} keys have one hash")
    return keys


@lru_cache(maxsize=256)
def _named_tuple(name: str, fields: tuple[str, ...]) -> Any:
    return collections.namedtuple(name, fields)


def encode(value: Any, other: Callable[[Any], Any], depth: int = 0) -> Any:
    """The JSON form of a value of the test's; `other(value)` is asked for what is not plain."""
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if depth > _DEEPEST:
        raise Unacceptable("an argument is nested too deeply")
    if kind is int:
        return value if -_SMALL < value < _SMALL else ["i", format(value, "x")]
    plain = _encoded(value, lambda one: encode(one, other, depth + 1))
    return other(value) if plain is None else plain


def _encoded(value: Any, inner: Callable[[Any], Any]) -> list[Any] | None:
    if isinstance(value, dict):
        return ["d", *(inner(one) for pair in value.items() for one in pair)]
    for tag, kinds in (("l", list), ("t", tuple), ("s", set), ("f", frozenset), ("q", collections.deque)):
        if isinstance(value, kinds):
            return [tag, *map(inner, value)]
    if isinstance(value, complex):
        return ["c", value.real, value.imag]
    if isinstance(value, bytes):
        return ["b", value.decode("latin-1")]
    if _BUILTIN_NAMES.get(id(value)):
        return ["u", _BUILTIN_NAMES[id(value)]]
    return _encoded_extra(value)


def _encoded_extra(value: Any) -> list[Any] | None:
    parts: Sequence[Any]
    if type(value) in _DATES.values():
        parts = [value.isoformat()]
    elif type(value) is datetime.timedelta:
        parts = [value.days, value.seconds, value.microseconds]
    elif type(value) is decimal.Decimal:
        parts = [str(value)]
    elif type(value) is fractions.Fraction:
        parts = [value.numerator, value.denominator]
    elif type(value) is range:
        parts = [value.start, value.stop, value.step]
    elif type(value) is bytearray:
        parts = [value.decode("latin-1")]
    else:
        return None
    return ["x", type(value).__name__, *parts]
