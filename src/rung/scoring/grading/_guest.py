"""What runs beside a solution, inside the sandbox: it reads a request, does it, and writes one answer.

This file is sent as text and imports nothing of rung. Nothing in it is trusted: the solution shares its process, may
change every object here and may write answers of its own. What the other side does about that is in `oracle.py`.

Frames are a length of four bytes and JSON. Numbers, text, true, false and null are themselves; everything else is a
list whose first entry says what it is (see `values.py`). An object that is not plain stays here, under a number.
"""

from __future__ import annotations

import builtins
import collections
import importlib
import io
import json
import operator
import os
import sys
import types
from collections.abc import Callable
from typing import Any

__all__ = ["Served", "serve"]

_MOST_NODES = 1_000_000
_DEEPEST = 100
_MOST_PRINTED = 1 << 20
_SMALL = 1 << 62
_EXTRAS: dict[tuple[str, str], Callable[[Any], list[Any]]] = {
    ("datetime", "datetime"): lambda v: [v.isoformat()],
    ("datetime", "date"): lambda v: [v.isoformat()],
    ("datetime", "time"): lambda v: [v.isoformat()],
    ("datetime", "timedelta"): lambda v: [v.days, v.seconds, v.microseconds],
    ("decimal", "Decimal"): lambda v: [str(v)],
    ("fractions", "Fraction"): lambda v: [v.numerator, v.denominator],
    ("builtins", "range"): lambda v: [v.start, v.stop, v.step],
    ("builtins", "bytearray"): lambda v: [v.decode("latin-1")],
}
_DATED = {"datetime", "date", "time"}
_SEQUENCES: tuple[tuple[str, Any], ...] = (
    ("l", list), ("t", tuple), ("s", set), ("f", frozenset), ("q", collections.deque),
)  # fmt: skip
_VERBS: dict[str, Callable[..., Any]] = {
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "len": len,
    "bool": bool,
    "iter": iter,
    "next": next,
    "str": str,
    "repr": repr,
    "call": lambda called, *given, **named: called(*given, **named),
}


class _Unsendable(Exception):
    """A value too deep or too large to be sent as it is."""


class Served:
    """The solution's namespace, the objects it made that stay here, and the two ends of the pipe."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = requests, answers
        self._objects: list[Any] = []
        self._parts: dict[int, Any] = {}
        self._nonce = 0
        self._left = 0
        module = types.ModuleType("solution")
        sys.modules["solution"] = module
        self._names = module.__dict__

    def read(self) -> Any:
        """The next request; None when the other side has closed."""
        header = self._exactly(4)
        return json.loads(self._exactly(int.from_bytes(header, "big"))) if header else None

    def write(self, frame: list[Any]) -> None:
        """Send one answer."""
        data = json.dumps(frame).encode()
        view = memoryview(len(data).to_bytes(4, "big") + data)
        while view:
            view = view[os.write(self._answers, view) :]

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = os.read(self._requests, min(count, 1 << 20))
            if not part:
                return b""
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def answer(self, request: list[Any]) -> None:
        """Do what a request asks and send what came of it."""
        self._nonce, verb, given, named, wants_changes, wants_output = request
        printed, kept = io.StringIO(), sys.stdout
        self._parts = {}
        changed: list[Any] = []
        if wants_output:
            sys.stdout = printed
        try:
            if verb == "load":
                done = self._load(*given)
            else:
                values = [self._received(one) for one in given]
                named = {name: self._received(one) for name, one in named.items()}
                done = self._sent(_VERBS[verb](*values, **named))
                changed = [self._sent(one) for one in values[1:]] if wants_changes else []
            frame = [self._nonce, "value", done]
        except BaseException as error:  # noqa: BLE001 - whatever a solution raises is an answer
            frame = [self._nonce, "raised", [_lineage(type(error)), _words(error)]]
        finally:
            sys.stdout = kept
        self.write([*frame, printed.getvalue()[:_MOST_PRINTED], changed])

    def _load(self, given: str, source: str, wanted: list[str]) -> dict[str, Any]:
        """Run the code that a task gives and the solution; say what stands under each wanted name."""
        for name, text in (("<given>", given), ("<solution>", source)):
            exec(compile(text, name, "exec"), self._names)
        return {name: self._sent(self._names[name]) for name in wanted if name in self._names}

    def _sent(self, value: Any) -> Any:
        """What is sent for a value: itself where it is plain, a number for it where it is not."""
        self._left = _MOST_NODES
        try:
            return self._plain(value, 0)
        except (_Unsendable, RecursionError):
            return self._kept(value)

    def _plain(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            raise _Unsendable
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        if isinstance(value, int):
            value = int(value)
            return value if -_SMALL < value < _SMALL else ["i", format(value, "x")]
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, float):
            return float(value)
        return self._compound(value, kind, depth + 1)

    def _compound(self, value: Any, kind: Any, depth: int) -> Any:
        if isinstance(value, complex):
            return ["c", value.real, value.imag]
        if isinstance(value, bytes):
            return ["b", bytes(value).decode("latin-1")]
        if isinstance(value, dict):
            return ["d", *(self._plain(one, depth) for pair in value.items() for one in pair)]
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return ["n", kind.__name__, list(kind._fields), *(self._plain(one, depth) for one in value)]
        for tag, base in _SEQUENCES:
            if isinstance(value, base):
                return [tag, *(self._plain(one, depth) for one in value)]
        extra = _EXTRAS.get((kind.__module__, kind.__name__))
        if extra:
            return ["x", kind.__name__, *(self._plain(one, depth) for one in extra(value))]
        if kind.__module__ == "numpy" and not getattr(value, "shape", (1,)):
            return self._plain(value.item(), depth)
        if hasattr(kind, "__dataclass_fields__"):
            names = list(kind.__dataclass_fields__)
            values = [self._plain(getattr(value, name), depth) for name in names]
            return ["r", self._number(value), kind.__name__, names, *values]
        return self._kept(value)

    def _kept(self, value: Any) -> list[Any]:
        """An object that stays here."""
        lineage = _lineage(value) if isinstance(value, type) and issubclass(value, BaseException) else []
        return ["o", self._number(value), type(value).__name__, lineage]

    def _number(self, value: Any) -> int:
        self._objects.append(value)
        return len(self._objects) - 1

    def _received(self, sent: Any) -> Any:
        """The value that a request holds."""
        if not isinstance(sent, list):
            return sent
        tag, *rest = sent
        if tag == "o":
            return self._objects[rest[0]]
        if tag == "p":
            return self._part(*rest)
        if tag == "k":
            return self._back(rest[0])
        if tag == "u":
            return getattr(builtins, rest[0])
        return self._built(tag, rest)

    def _built(self, tag: str, rest: list[Any]) -> Any:
        if tag in ("i", "b", "c"):
            made: dict[str, Callable[..., Any]] = {"i": _integer, "b": _latin, "c": complex}
            return made[tag](*rest)
        if tag == "x":
            module = next(module for module, name in _EXTRAS if name == rest[0])
            kind = getattr(importlib.import_module(module), rest[0])
            given = [self._received(one) for one in rest[1:]]
            return kind.fromisoformat(*given) if rest[0] in _DATED else kind(*_bytes_of(rest[0], given))
        values = [self._received(one) for one in rest]
        if tag == "d":
            return dict(zip(values[::2], values[1::2], strict=True))
        return dict(_SEQUENCES)[tag](values)

    def _part(self, place: int, name: str = "", attributes: list[Any] | tuple[()] = ()) -> Any:
        """An instance of a class that the task gives, made anew here; named only by its place the second time."""
        if place not in self._parts:
            kind = self._names[name]
            made = self._parts[place] = kind.__new__(kind)
            for attribute, value in attributes:
                object.__setattr__(made, attribute, self._received(value))
        return self._parts[place]

    def _back(self, number: int) -> Callable[..., Any]:
        """A function of the test's, called over there."""

        def called(*given: Any) -> Any:
            """Ask for one call and wait for its result; requests may come in between."""
            nonce = self._nonce
            self.write([nonce, "calls", [number, *(self._sent(one) for one in given)], "", []])
            while True:
                request = self.read()
                if request[1] == "called":
                    self._nonce = nonce
                    return self._received(request[2][0])
                self.answer(request)

        return called


def _integer(text: str) -> int:
    return int(text, 16)


def _latin(text: str) -> bytes:
    return text.encode("latin-1")


def _bytes_of(name: str, given: list[Any]) -> list[Any]:
    return [given[0].encode("latin-1")] if name == "bytearray" else given


def _lineage(kind: type) -> list[str]:
    return [one.__name__ for one in kind.__mro__]


def _words(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except Exception as other:  # noqa: BLE001 - a message that cannot be made is named instead
        return f"(its message raised {type(other).__name__})"


def serve(requests: int, answers: int) -> None:
    """Answer requests till the other side closes."""
    served = Served(requests, answers)
    while request := served.read():
        served.answer(request)
