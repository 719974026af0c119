"""Reading figures by their shape, so that a new stage's numbers show up without a line here.

Two shapes are understood anywhere in a manifest: a figure held against a limit (`value`, `limit`, `passed`), and a
curve (rows that have a `step`, or pairs of step and value under a name).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Held", "held", "series", "walk"]

_STEPS = ("step", "tokens", "epoch", "record", "num_records")


@dataclass(frozen=True, slots=True)
class Held:
    """A figure against its limit. `lower_is_better` says which side of the limit is the good one."""

    name: str
    value: float
    limit: float
    passed: bool
    lower_is_better: bool


def walk(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every mapping inside `values`, outermost first, with its path; items of lists go by their `name`, else number."""
    if isinstance(values, Mapping):
        yield path, values
        for key, value in values.items():
            yield from walk(value, (*path, str(key)))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            name = value.get("name", value.get("rule", index)) if isinstance(value, Mapping) else index
            yield from walk(value, (*path, str(name)))


def held(values: Any) -> list[Held]:
    """All figures against limits. The direction is what was written (`lower_is_better`, or an operator such as `<`),
    else it follows from the verdict."""
    found = []
    for path, mapping in walk(values):
        value, limit = _number(mapping.get("value")), _number(mapping.get("limit"))
        passed = mapping.get("passed")
        if value is None or limit is None or not isinstance(passed, bool):
            continue
        name = str(mapping.get("name") or mapping.get("rule") or (path[-1] if path else "figure"))
        found.append(Held(name, value, limit, passed, _lower(mapping, passed, value, limit)))
    return found


def series(values: Any) -> dict[str, list[tuple[float, float]]]:
    """Named curves in `values`: rows with a step, or lists of pairs under a name."""
    found: dict[str, list[tuple[float, float]]] = {}
    if isinstance(values, list):
        for row in values:
            if isinstance(row, Mapping):
                _add_row(row, found)
    elif isinstance(values, Mapping):
        for key, value in values.items():
            if _is_pairs(value):
                found.setdefault(str(key), []).extend((float(x), float(y)) for x, y in value)
            else:
                for name, points in series(value).items():
                    found.setdefault(name if name != "value" else str(key), []).extend(points)
    return found


def _add_row(row: Mapping[str, Any], found: dict[str, list[tuple[float, float]]]) -> None:
    step = next((n for key in _STEPS if (n := _number(row.get(key))) is not None), None)
    if step is None:
        return
    if isinstance(row.get("name"), str) and _number(row.get("value")) is not None:
        found.setdefault(str(row["name"]), []).append((step, float(row["value"])))
        return
    for key, value in row.items():
        number = _number(value)
        if number is not None and key not in _STEPS:
            found.setdefault(str(key), []).append((step, number))


def _is_pairs(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(p, (list, tuple)) and len(p) == 2 and all(_number(x) is not None for x in p) for p in value)
    )


def _lower(mapping: Mapping[str, Any], passed: bool, value: float, limit: float) -> bool:
    if isinstance(mapping.get("lower_is_better"), bool):
        return bool(mapping["lower_is_better"])
    operator = str(mapping.get("operator") or mapping.get("sense") or mapping.get("direction") or "")
    if operator:
        return operator.startswith("<") or operator in ("=", "==", "max", "below", "at_most")
    return (value <= limit) == passed


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None
