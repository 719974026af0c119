"""JSON that fits a JSON Schema and, where they are given, holds the right values.

The reply is one JSON value, alone or in a code block; words may follow after a blank line. Keys written twice, NaN and
Infinity are refused, as readers disagree about them. `values` maps a path ("address.city", "items.0") to what must
stand there; text is compared as it is, numbers by value.

Abstains when the schema itself is wrong. References to other documents are not fetched.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from rung.base.errors import MissingDependency
from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.verifier import Verifier, abstain, verdict

__all__ = ["JsonSchema"]

_FENCE = re.compile(r"^```(?:json)?[ \t]*\r?\n(.*?)```\s*(?:\n|$)", re.S | re.I)
_LONGEST = 100_000
_NOTHING = object()


class JsonSchemaSettings(Settings):
    """What the JSON must be."""

    document: Mapping[str, Any] = Field(description="the JSON Schema")
    values: Mapping[str, Any] = Field(default={}, description="paths, and what must stand there")


_PERSON = {
    "document": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "values": {"name": "Ann", "age": 3},
}


class JsonSchema(Verifier[JsonSchemaSettings]):
    """Whether the reply is JSON that fits."""

    Settings = JsonSchemaSettings
    EXAMPLES = (
        (_PERSON, '{"name": "Bob", "name": "Ann", "age": 3}', False),
        (_PERSON, '{"name": "Ann", "age": NaN}', False),
        (_PERSON, '{"name": "Ann", "age": 3, "score": 1}', False),
        (_PERSON, '```json\n{"age": 3.0, "name": "Ann"}\n```', True),
        (_PERSON, '{"name": "Ann", "age": true}', False),
        (_PERSON, '{"name": "Ann", "age": 4}', False),
        (_PERSON, '{"name": "Ann", "age": 3} {"name": "Bob", "age": 3}', False),
        (_PERSON, "[" * 50_000, False),
        ({"document": {"type": "array"}, "values": {"1": 2}}, "[1, 2]", True),
        ({"document": {"type": "nothing"}}, "[1, 2]", None),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        if len(reply) > _LONGEST:
            return verdict(False, f"longer than {_LONGEST} characters")
        try:
            value = _value(reply)
        except (ValueError, RecursionError) as error:
            return verdict(False, f"no JSON: {type(error).__name__} {error}"[:200])
        try:
            problem = _misfit(self.settings.document, value)
        except _WrongSchema as wrong:
            return abstain(str(wrong))
        if problem:
            return verdict(False, problem)
        differing = [path for path, wanted in self.settings.values.items() if not _same(_at(value, path), wanted)]
        return verdict(not differing, f"other values at {differing[:3]}" if differing else "fits")


class _WrongSchema(Exception):
    """The task's schema is no schema."""


def _value(reply: str) -> Any:
    fenced = _FENCE.match(reply.strip())
    text = (fenced.group(1) if fenced else reply).strip()
    reader = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)
    value, end = reader.raw_decode(text)
    if not re.match(r"\s*(?:\n[ \t]*\r?\n|$)", text[end:]):
        raise ValueError(f"something follows: {text[end : end + 30]!r}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _misfit(document: Mapping[str, Any], value: Any) -> str:
    """Where the value does not fit, and why; empty when it fits."""
    try:
        jsonschema, referencing = importlib.import_module("jsonschema"), importlib.import_module("referencing")
    except ModuleNotFoundError as error:
        raise MissingDependency("'json_schema' needs the package jsonschema", hint="pip install jsonschema") from error
    kind = jsonschema.validators.validator_for(document)
    try:
        kind.check_schema(document)
        found = next(iter(kind(document, registry=referencing.Registry()).iter_errors(value)), None)
    except (jsonschema.SchemaError, referencing.exceptions.Unresolvable) as error:
        raise _WrongSchema(f"the schema is wrong: {str(error)[:120]}") from error
    if found is None:
        return ""
    return f"at {'.'.join(map(str, found.absolute_path)) or 'the top'}: {found.message}"[:200]


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return _NOTHING
    return value


def _same(found: Any, wanted: Any) -> bool:
    return isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)
