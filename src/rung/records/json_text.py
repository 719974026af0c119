"""JSON read strictly and written one way: what is read here loads everywhere, and means the same there.

The standard library lets through what other readers refuse or read otherwise: NaN and infinities, numbers that overflow
to one, keys that come twice. `rung.records.json_repair` mends what is broken, `rung.records.json_valid` asks a schema.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from rung.base.errors import DataError

__all__ = ["format_json", "place_in", "read_json"]


def read_json(text: str) -> Any:
    """The value of a text.

    Raises:
        DataError: it is no JSON, a key comes twice, or a number is not finite; with line and column where known.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_apart)
    except json.JSONDecodeError as error:
        raise DataError(f"no JSON: {error.msg}", place=place_in(text, error.pos)) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"no JSON that can be read: {error}") from error


def format_json(value: Any, indent: int | None = None) -> str:
    """A value as text: keys in their order, letters as they are, a blank after `,` and `:`; on lines with `indent`.

    Raises:
        DataError: something that JSON has no form for.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair has a form in JSON, and none in UTF-8
        return json.dumps(value, indent=indent, allow_nan=False)
    except (RecursionError, TypeError, ValueError) as error:
        raise DataError(f"JSON cannot hold this: {error}") from error
    return text


def place_in(text: str, position: int) -> str:
    """Line and column of a character, both from 1."""
    return f"line {text.count(chr(10), 0, position) + 1}, column {position - text.rfind(chr(10), 0, position)}"


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text} is too large")
    return value


def _apart(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"the key {twice!r} comes twice")
    return found
