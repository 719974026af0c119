"""Does a value fit a JSON Schema (2020-12), and if not, where?

Known are the keywords that the constraint `json_schema` enforces, and beside them bounds of numbers that are not whole,
`uniqueItems` and schemas for other properties. Any other keyword is refused by name: none is skipped.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.base.errors import SettingsError

__all__ = ["Fault", "validate_json"]

_NOTES = {
    "$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated",
    "readOnly", "writeOnly",
}  # fmt: skip
_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: _is_number(value),
    "integer": lambda value: _is_number(value) and value == math.floor(value),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and where: JSON pointers into the value (empty: the whole of it) and into the schema."""

    path: str
    message: str
    rule: str


def validate_json(value: Any, schema: Any) -> list[Fault]:
    """All faults of a value, in the order of the schema; none: it fits.

    Raises:
        SettingsError: a keyword that is not known, with its pointer, or a reference that leads nowhere.
    """
    _check(schema, "#")
    return list(_Validator(schema).faults(value, schema, "", "#"))


class _Validator:
    def __init__(self, whole: Any) -> None:
        self._whole = whole
        self._asked: list[tuple[str, str]] = []

    def faults(self, value: Any, schema: Any, path: str, rule: str) -> Iterator[Fault]:
        """Faults of the value at `path` under the schema at `rule`."""
        if isinstance(schema, bool):
            if not schema:
                yield Fault(path, "nothing may stand here", rule)
            return
        for key, wanted in schema.items():
            if key in _PLAIN:
                if message := _PLAIN[key](value, wanted):
                    yield Fault(path, message, f"{rule}/{key}")
            elif key in _DEEP:
                yield from _DEEP[key](self, value, schema, path, rule)

    def properties(self, value: Any, schema: Any, path: str, rule: str) -> Iterator[Fault]:
        """Of the properties that are there."""
        for name, inner in schema["properties"].items():
            if isinstance(value, dict) and name in value:
                step = _escaped(name)
                yield from self.faults(value[name], inner, f"{path}/{step}", f"{rule}/properties/{step}")

    def others(self, value: Any, schema: Any, path: str, rule: str) -> Iterator[Fault]:
        """Of properties that are not declared."""
        for name in value if isinstance(value, dict) else ():
            if name not in schema.get("properties", {}):
                inner, place = schema["additionalProperties"], f"{rule}/additionalProperties"
                yield from self.faults(value[name], inner, f"{path}/{_escaped(name)}", place)

    def items(self, value: Any, schema: Any, path: str, rule: str) -> Iterator[Fault]:
        """Of every item of an array."""
        for place, item in enumerate(value if isinstance(value, list) else ()):
            yield from self.faults(item, schema["items"], f"{path}/{place}", f"{rule}/items")

    def any_of(self, value: Any, schema: Any, path: str, rule: str) -> Iterator[Fault]:
        """One fault when no schema of several is met."""
        options = [
            list(self.faults(value, inner, path, f"{rule}/anyOf/{number}"))
            for number, inner in enumerate(schema["anyOf"])
        ]
        if all(options):
            nearest = min(options, key=len, default=[])
            why = f"; the nearest: {nearest[0].message}" if nearest else ""
            yield Fault(path, f"it fits none of {len(options)} schemas{why}", f"{rule}/anyOf")

    def reference(self, value: Any, schema: Any, path: str, rule: str) -> Iterator[Fault]:
        """Of the schema that is referred to."""
        reference = str(schema["$ref"])
        if (reference, path) in self._asked:
            raise _refused(f"{rule}/$ref", f"{reference!r} refers to itself")
        self._asked.append((reference, path))
        found, (first, *steps) = self._whole, reference.split("/")
        for step in steps:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, Mapping) else None
        if first != "#" or found is None:
            raise _refused(f"{rule}/$ref", f"{reference!r} is not there")
        yield from self.faults(value, found, path, reference)
        self._asked.pop()


_DEEP: dict[str, Callable[[_Validator, Any, Any, str, str], Iterator[Fault]]] = {
    "properties": _Validator.properties,
    "additionalProperties": _Validator.others,
    "items": _Validator.items,
    "anyOf": _Validator.any_of,
    "$ref": _Validator.reference,
}


def _check(schema: Any, rule: str) -> None:
    """Whether all keywords of a schema are known, wherever they stand."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise _refused(rule, f"{schema!r} is no schema")
    for key, wanted in schema.items():
        place = f"{rule}/{_escaped(key)}"
        if key not in _PLAIN and key not in _DEEP and key not in _NOTES:
            raise _refused(place, f"the keyword '{key}' is not known")
        if key == "type" and not set([wanted] if isinstance(wanted, str) else wanted) <= set(_TYPES):
            raise _refused(place, f"{wanted!r} is no type")
        if key in ("items", "additionalProperties"):
            _check(wanted, place)
        if key in ("properties", "anyOf", "$defs", "definitions"):
            inner = wanted.items() if isinstance(wanted, Mapping) else enumerate(wanted)
            for name, one in inner:
                _check(one, f"{place}/{_escaped(str(name))}")


def _refused(place: str, message: str) -> SettingsError:
    return SettingsError(message, place=place, hint=f"known keywords: {', '.join([*_PLAIN, *_DEEP])}")


def _type(value: Any, wanted: Any) -> str:
    names = [wanted] if isinstance(wanted, str) else wanted
    fits = any(_TYPES[name](value) for name in names)
    return "" if fits else f"{_shown(value)} is not of type {' or '.join(names)}"


def _required(value: Any, wanted: Sequence[str]) -> str:
    lacking = [name for name in wanted if name not in value] if isinstance(value, dict) else []
    return f"{', '.join(map(repr, lacking))} is missing" if lacking else ""


def _enum(value: Any, wanted: Sequence[Any]) -> str:
    return "" if any(_same(value, one) for one in wanted) else f"{_shown(value)} is none of {_shown(list(wanted))}"


def _unique(value: Any, wanted: bool) -> str:
    items = value if isinstance(value, list) and wanted else []
    twice = [one for place, one in enumerate(items) if any(_same(one, other) for other in items[:place])]
    return f"{_shown(twice[0])} comes twice" if twice else ""


def _length(kind: type, what: str, over: bool) -> Callable[[Any, Any], str]:
    """A check of how long a value of a kind is."""

    def check(value: Any, wanted: int) -> str:
        """What is wrong with the length."""
        wrong = isinstance(value, kind) and (len(value) > wanted if over else len(value) < wanted)  # type: ignore[arg-type]
        return f"{len(value)} {what}, {'more' if over else 'fewer'} than {wanted}" if wrong else ""

    return check


def _bound(fits: Callable[[float, float], bool], words: str) -> Callable[[Any, Any], str]:
    """A check of how large a number is."""

    def check(value: Any, wanted: float) -> str:
        """What is wrong with the size."""
        return "" if not _is_number(value) or fits(value, wanted) else f"{value} is not {words} {wanted}"

    return check


_PLAIN: dict[str, Callable[[Any, Any], str]] = {
    "type": _type,
    "required": _required,
    "enum": _enum,
    "const": lambda value, wanted: _enum(value, [wanted]),
    "uniqueItems": _unique,
    "minItems": _length(list, "items", over=False),
    "maxItems": _length(list, "items", over=True),
    "minLength": _length(str, "characters", over=False),
    "maxLength": _length(str, "characters", over=True),
    "minimum": _bound(operator.ge, "at least"),
    "maximum": _bound(operator.le, "at most"),
    "exclusiveMinimum": _bound(operator.gt, "above"),
    "exclusiveMaximum": _bound(operator.lt, "below"),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:
    """As JSON compares: 1 and 1.0 are one number, and true is none."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
