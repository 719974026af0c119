"""What stands in a test for an object that stays with the solution.

A handle can be called, read, indexed, iterated and passed back in; each of these asks over the pipe and gets plain data
or another handle. It is never equal to anything and never compared: what asks for that fails the test, for the answer
would be the solution's own word. A dataclass is compared field by field with one that the test itself had made, with
a class that it names, and whose fields came back as they were given. What is judged makes no such one: it could call
its own answer the expected one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from rung.scoring.grading.values import Unacceptable

__all__ = ["Asks", "NotPlain", "Record", "Remote", "let_vouch", "number_of", "record", "vouch"]


class NotPlain(Exception):
    """A test compared an object that stays with the solution; there is nothing to compare it by."""


class Asks(Protocol):
    """Whoever carries a request over the pipe."""

    def ask(self, verb: str, given: Sequence[Any], named: Mapping[str, Any] | None = None) -> Any:
        """The result of one request."""


class Remote:
    """A handle. Dunder names are never asked for: what Python itself looks up here is only what is written here."""

    __slots__ = ("_asks", "_number", "_type_name", "_vouches")

    def __init__(self, asks: Asks, number: int, type_name: str) -> None:
        object.__setattr__(self, "_asks", asks)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_type_name", type_name[:100])
        object.__setattr__(self, "_vouches", False)

    def __call__(self, *given: Any, **named: Any) -> Any:
        made = self._asks.ask("call", [self, *given], named)
        return vouch(made, given, named) if self._vouches else made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._asks.ask("getattr", [self, name])

    def __setattr__(self, name: str, value: Any) -> None:
        self._asks.ask("setattr", [self, name, value])

    def __getitem__(self, key: Any) -> Any:
        return self._asks.ask("getitem", [self, key])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._asks.ask("setitem", [self, key, value])

    def __iter__(self) -> Any:
        return self._asks.ask("iter", [self])

    def __next__(self) -> Any:
        return self._asks.ask("next", [self])

    def __len__(self) -> int:
        return int(self._exactly("len", int))

    def __bool__(self) -> bool:
        return bool(self._exactly("bool", bool))

    def __str__(self) -> str:
        return str(self._exactly("str", str))

    def __repr__(self) -> str:
        return f"<{self._type_name} of the solution>"

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        raise NotPlain(f"a {self._type_name} that the solution made was compared")

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__

    def _exactly(self, verb: str, kind: type) -> Any:
        answer = self._asks.ask(verb, [self])
        if type(answer) is not kind:
            raise NotPlain(f"{verb} of a {self._type_name} gave no {kind.__name__}")
        return answer


class Record(Remote):
    """A handle of a dataclass, with the fields it had when it was sent."""

    __slots__ = ("_fields", "_vouched")

    def __init__(self, asks: Asks, number: int, type_name: str, fields: Mapping[str, Any]) -> None:
        super().__init__(asks, number, type_name)
        object.__setattr__(self, "_fields", fields)
        object.__setattr__(self, "_vouched", False)

    __hash__ = Remote.__hash__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record) or not (self._vouched or other._vouched):
            raise NotPlain(f"a {self._type_name} that the solution made was compared")
        return bool(self._type_name == other._type_name and self._fields == other._fields)

    def __ne__(self, other: object) -> bool:
        return not self == other


def let_vouch(remote: Remote) -> None:
    """What is called by this handle is how a test makes what it expects."""
    object.__setattr__(remote, "_vouches", True)


def number_of(remote: Remote, asks: Asks) -> int:
    """The number under which the solution's side keeps an object.

    Raises:
        Unacceptable: it belongs to another run.
    """
    if object.__getattribute__(remote, "_asks") is not asks:
        raise Unacceptable("an object of another run was passed")
    return int(object.__getattribute__(remote, "_number"))


def record(asks: Asks, number: int, type_name: str, names: Sequence[str], values: Sequence[Any]) -> Record:
    """A handle of a dataclass, of a class with that name and these fields, so that `dataclasses.asdict` reads it."""
    kind = _record_class(type_name, tuple(names))
    made: Record = kind(asks, number, type_name, dict(zip(names, values, strict=True)))
    return made


@lru_cache(maxsize=256)
def _record_class(name: str, fields: tuple[str, ...]) -> Any:
    described = dataclasses.make_dataclass(name, fields, eq=False, repr=False)
    return type(name, (Record,), {"__slots__": (), "__dataclass_fields__": vars(described)["__dataclass_fields__"]})


def vouch(made: Any, given: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """Mark a dataclass that a test had made, when its fields are what the test gave."""
    if isinstance(made, Record) and (given or named):
        pinned = {**dict(zip(made._fields, given, strict=False)), **named}
        if len(pinned) == len(given) + len(named) and _same(made._fields, pinned):
            object.__setattr__(made, "_fields", {**made._fields, **pinned})
            object.__setattr__(made, "_vouched", True)
    return made


def _same(fields: Mapping[str, Any], pinned: Mapping[str, Any]) -> bool:
    try:
        return all(name in fields and fields[name] == value for name, value in pinned.items())
    except NotPlain:
        return False
