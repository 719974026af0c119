"""Constraints that a provider can be asked to keep, as `response_format`, and whether an answer kept them.

A provider promises JSON, any object or by a schema, and nothing else: the other kinds are refused before anything is
sent, and so are schemas with keywords that could not be checked here. A promise is not taken for kept: what comes back
is read, and fits or does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rung.base.errors import DataError, SettingsError
from rung.records.json_text import read_json
from rung.records.json_valid import validate_json

__all__ = ["obeys", "response_format"]

_NAME = "answer"
_SPOKEN = 'outside providers speak {"json": "object"} and {"json_schema": {...}}; the engine and `rung serve` speak all'


def response_format(constraint: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The field's value for a request's constraint.

    Raises:
        SettingsError: a kind that no provider speaks, or a keyword of a schema that is not known here.
    """
    match dict(constraint):
        case {"json": "object", **rest} if not rest:
            return {"type": "json_object"}
        case {"json_schema": Mapping() as schema, **rest} if not rest:
            _check_schema(schema, place)
            return {"type": "json_schema", "json_schema": {"name": _NAME, "schema": dict(schema), "strict": True}}
    shown = json.dumps(dict(constraint), default=str)[:80]
    raise SettingsError(f"a provider cannot be asked for {shown}", place=f"{place}: constraint", hint=_SPOKEN)


def obeys(text: str, constraint: Mapping[str, Any]) -> bool:
    """Whether a text is a whole one of what `response_format` asked for."""
    try:
        value = read_json(text)
    except DataError:
        return False
    return (
        not validate_json(value, constraint["json_schema"]) if "json_schema" in constraint else isinstance(value, dict)
    )


def _check_schema(schema: Mapping[str, Any], place: str) -> None:
    try:
        validate_json(None, schema)
    except SettingsError as error:
        where = error.place
        raise SettingsError(error.message, place=f"{place}: constraint.json_schema{where}", hint=error.hint) from error
