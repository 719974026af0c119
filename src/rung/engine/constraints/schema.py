"""JSON Schema (2020-12) to rules: the part of it that a grammar can enforce, and the names of what it cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rung.base.errors import SettingsError
from rung.engine.constraints.json_text import INTEGER, JSON_RULES, MOST_DIGITS, literal
from rung.engine.constraints.text import ROOT, Rules, read_rules

__all__ = ["grammar_of_schema", "rules_of_schema"]

_NOTES = {
    "$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
}  # fmt: skip
_BY_TYPE: dict[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": set(),
    "boolean": set(),
    "null": set(),
}
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def grammar_of_schema(schema: Any) -> str:
    """The rules in GBNF, for other readers; raises as `rules_of_schema`."""
    return _Writer(schema).write()


def rules_of_schema(schema: Any) -> Rules:
    """The rules; a parse tree calls them by the pointers of their schemas.

    Raises:
        SettingsError: a keyword that is not supported or whose value is wrong; its place is a JSON pointer.
    """
    writer = _Writer(schema)
    rules = read_rules(writer.write())
    rules.shown = {ROOT: ROOT, **writer.pointers()}
    return rules


class _Writer:
    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._lines: list[str] = []
        self._of_pointer: dict[str, str] = {}
        self._extras: set[str] = set()

    def write(self) -> str:
        """All rules."""
        root = self._rule(self._schema, "#")
        return f"root ::= {root}\n" + "\n".join(self._lines) + JSON_RULES

    def pointers(self) -> dict[str, str]:
        """Pointers of schemas by the names of their rules."""
        return {name: pointer for pointer, name in self._of_pointer.items() if name not in self._extras}

    def _rule(self, schema: Any, pointer: str) -> str:
        """The name of the rule of the schema at `pointer`; made once, so a schema may refer to itself."""
        if pointer not in self._of_pointer:
            name = self._of_pointer[pointer] = f"at-{len(self._of_pointer)}"
            self._lines.append(f"{name} ::= {self._body(schema, pointer)}")
        return self._of_pointer[pointer]

    def _body(self, schema: Any, pointer: str) -> str:
        if not isinstance(schema, Mapping):
            raise _refused(pointer, f"{schema!r} is no schema with a type", "say which type is wanted")
        keys = set(schema) - _NOTES - ({"$defs", "definitions"} if pointer == "#" else set())
        for single, write in (("$ref", self._reference), ("anyOf", self._any_of)):
            if single in keys:
                _only(keys, {single}, pointer)
                return write(schema[single], f"{pointer}/{single}")
        for single in ("const", "enum"):
            if single in keys:
                _only(keys, {single, "type"}, pointer)
                values = [schema["const"]] if single == "const" else schema["enum"]
                return _values(values, schema.get("type"), f"{pointer}/{single}")
        types = _types(schema, pointer)
        _only(keys, {"type"}.union(*(_BY_TYPE[name] for name in types)), pointer)
        return " | ".join(self._of_type(name, schema, pointer) for name in types)

    def _of_type(self, name: str, schema: Mapping[str, Any], pointer: str) -> str:
        if name == "object":
            return self._object(schema, pointer)
        if name == "array":
            return self._array(schema, pointer)
        if name == "string":
            return f'"\\"" char{_bounds(schema, "Length", pointer)} "\\""'
        return _integer(schema, pointer) if name == "integer" else name

    def _object(self, schema: Mapping[str, Any], pointer: str) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping):
            raise _refused(f"{pointer}/properties", f"{properties!r} is no mapping", "name schemas by property")
        if schema.get("additionalProperties", False) is not False:
            raise _refused(
                f"{pointer}/additionalProperties", "only false is supported", "a key could come twice; name them all"
            )
        if not isinstance(required, list) or not set(required) <= set(properties):
            raise _refused(f"{pointer}/required", f"{required!r} are not all properties", "declare what is required")
        # from the last to the first: what may follow when nothing came before (first), or something did (rest)
        first = rest = ""
        for number, (name, inner) in reversed([*enumerate(properties.items())]):
            rule = self._rule(inner, f"{pointer}/properties/{_escaped(name)}")
            member = f"{literal(json.dumps(name, ensure_ascii=False) + ': ')} {rule}"
            optional = name not in required
            first, rest = (
                self._extra(f"{member} {rest}" + (f" | {first}" if optional else ""), f"{pointer}#first{number}"),
                self._extra(f'", " {member} {rest}' + (f" | {rest}" if optional else ""), f"{pointer}#rest{number}"),
            )
        return f'"{{" {first} "}}"'

    def _extra(self, body: str, key: str) -> str:
        name = self._of_pointer[key] = f"at-{len(self._of_pointer)}"
        self._extras.add(name)
        if body.endswith("| "):
            body += '""'
        self._lines.append(f"{name} ::= {body}")
        return name

    def _array(self, schema: Mapping[str, Any], pointer: str) -> str:
        if "items" not in schema:
            raise _refused(f"{pointer}/items", "it is missing", "say what the items are")
        item = self._rule(schema["items"], f"{pointer}/items")
        bounds = _bounds(schema, "Items", pointer)
        if bounds == "*":
            return f'"[" ({item} (", " {item})*)? "]"'
        least, most = (int(part) if part else None for part in bounds[1:-1].split(","))
        if most == 0:
            return '"[" "]"'
        rest = f'(", " {item}){{{max(0, (least or 0) - 1)},{"" if most is None else most - 1}}}'
        return f'"[" {item} {rest} "]"' if least else f'"[" ({item} {rest})? "]"'

    def _any_of(self, schemas: Any, pointer: str) -> str:
        if not isinstance(schemas, list) or not schemas:
            raise _refused(pointer, "it is no list of schemas", "name at least one")
        return " | ".join(self._rule(schema, f"{pointer}/{number}") for number, schema in enumerate(schemas))

    def _reference(self, reference: Any, pointer: str) -> str:
        found = self._schema
        parts = str(reference).split("/")
        if parts != ["#"] and (len(parts) < 3 or parts[0] != "#" or parts[1] not in ("$defs", "definitions")):
            raise _refused(pointer, f"{reference!r} is not supported", "refer to '#/$defs/NAME' of the same schema")
        for part in parts[1:]:
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        if found is None:
            raise _refused(pointer, f"{reference!r} is not there", "put it under $defs")
        return self._rule(found, str(reference))


def _only(keys: set[str], known: set[str], pointer: str) -> None:
    if others := sorted(keys - known):
        raise _refused(
            f"{pointer}/{_escaped(others[0])}",
            f"the keyword '{others[0]}' is not supported here",
            f"leave it out, or check it afterwards; supported here: {', '.join(sorted(known))}",
        )


def _types(schema: Mapping[str, Any], pointer: str) -> list[str]:
    named = schema.get("type")
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not names or not all(name in _BY_TYPE for name in names):
        raise _refused(f"{pointer}/type", f"{named!r} is no type", f"one of {', '.join(_BY_TYPE)}, or a list of them")
    return names


def _values(values: Any, named: Any, pointer: str) -> str:
    if not isinstance(values, list) or not values:
        raise _refused(pointer, "it is no list of values", "name at least one")
    names = [named] if isinstance(named, str) else (named or [])
    for value in values:
        fits = any(_is(value, name) for name in names)
        if names and not fits:
            raise _refused(pointer, f"{value!r} is not of type {named!r}", "leave the type out")
    try:
        return " | ".join(literal(json.dumps(v, ensure_ascii=False, allow_nan=False)) for v in values)
    except ValueError as error:
        raise _refused(pointer, str(error), "numbers are finite") from error


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool) and name != "boolean":
        return False
    return isinstance(value, _PYTHON_TYPES.get(name, ()))


def _whole(schema: Mapping[str, Any], key: str, pointer: str) -> int | None:
    value = schema.get(key)
    if key in schema and (not isinstance(value, int) or isinstance(value, bool)):
        raise _refused(f"{pointer}/{key}", f"{value!r} is no whole number", "use one")
    return value


def _bounds(schema: Mapping[str, Any], what: str, pointer: str) -> str:
    """A repetition for `min...` and `max...`."""
    least, most = _whole(schema, f"min{what}", pointer) or 0, _whole(schema, f"max{what}", pointer)
    if least < 0 or (most is not None and most < least):
        raise _refused(f"{pointer}/max{what}", f"{most} is less than {max(least, 0)}", "nothing would fit")
    return "*" if not least and most is None else f"{{{least},{'' if most is None else most}}}"


def _integer(schema: Mapping[str, Any], pointer: str) -> str:
    keys = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    if not any(key in schema for key in keys):
        return INTEGER
    least, above, most, below = (_whole(schema, key, pointer) for key in keys)
    widest = 10**MOST_DIGITS - 1
    low = max(-widest, *(v for v in (least, None if above is None else above + 1) if v is not None), -widest)
    high = min(widest, *(v for v in (most, None if below is None else below - 1) if v is not None), widest)
    if low > high:
        raise _refused(pointer, f"no integer from {low} to {high} with {MOST_DIGITS} digits", "widen the range")
    parts = [f'"-" ({_span(max(1, -high), -low)})'] if low < 0 else []
    return " | ".join([*parts, *([_span(max(0, low), high)] if high >= 0 else [])])


def _span(low: int, high: int) -> str:
    """Numbers from `low` to `high`, neither negative."""
    found = []
    while low <= high:
        top = min(high, 10 ** len(str(low)) - 1)
        found += _digits(str(low), str(top))
        low = top + 1
    return " | ".join(found)


def _digits(low: str, high: str) -> list[str]:
    """Equally long numbers from `low` to `high`."""
    rest = len(low) - 1
    if low == "0" * len(low) and high == "9" * len(low):
        return [f"[0-9]{{{len(low)}}}"]
    if not rest:
        return [f"[{low}-{high}]"]
    if low[0] == high[0]:
        return [f'"{low[0]}" {tail}' for tail in _digits(low[1:], high[1:])]
    first, last = int(low[0]), int(high[0])
    found = []
    if low[1:] != "0" * rest:
        found = [f'"{first}" {tail}' for tail in _digits(low[1:], "9" * rest)]
        first += 1
    whole = high[1:] == "9" * rest
    if first <= last - (not whole):
        found.append(f"[{first}-{last - (not whole)}] [0-9]{{{rest}}}")
    return found if whole else [*found, *(f'"{last}" {tail}' for tail in _digits("0" * rest, high[1:]))]


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _refused(pointer: str, message: str, hint: str) -> SettingsError:
    return SettingsError(message, place=f"constraint{pointer}", hint=hint)
