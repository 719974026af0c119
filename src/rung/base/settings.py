"""Settings belong to the thing they set: frozen pydantic models, validated before any work is done.

`validate` turns pydantic's report into one `SettingsError` that names the path, the value and the nearest known key.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pydantic

from rung.base.errors import SettingsError

__all__ = ["Field", "Settings", "unsaid", "validate"]

Field = pydantic.Field
S = TypeVar("S", bound="Settings")


def unsaid(usual: object = None) -> Callable[[object], bool]:
    """For `exclude_if`: whether a value is what a recipe has that does not speak of it: `usual`, or nothing at all. It
    is not written either, so a fingerprint does not change because a setting came to be."""
    return lambda value: not value if usual is None else value == usual


class Settings(pydantic.BaseModel):
    """Base of every settings model: immutable, no unknown keys, defaults validated too."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def nearest(key: str, known: list[str]) -> str:
    """The hint for an unknown key: the closest known one, then all of them."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    listed = ", ".join(sorted(known)) or "none"
    return (f"did you mean '{close[0]}'? " if close else "") + f"known: {listed}"


def validate(model: type[S], values: Mapping[str, Any] | None, place: str) -> S:
    """Build `model` from `values`.

    Args:
        model: the settings class.
        values: what the recipe says; None means "nothing", so every default applies.
        place: the path of these values in the recipe, used in the error.

    Raises:
        SettingsError: naming path, value and fix; the first problem decides, all of them are listed.
    """
    try:
        return model.model_validate(dict(values or {}))
    except pydantic.ValidationError as error:
        problems = [_describe(model, problem, place) for problem in error.errors()]
        first_place, first_message, hint = problems[0]
        more = "".join(f"\n  also {where}: {text}" for where, text, _ in problems[1:])
        raise SettingsError(first_message + more, place=first_place, hint=hint) from error


def _describe(model: type[Settings], problem: Any, place: str) -> tuple[str, str, str]:
    path = [str(part) for part in problem["loc"]]
    where = ".".join([place, *path]) if path else place
    if problem["type"] == "extra_forbidden":
        return where, f"unknown key '{path[-1]}'", nearest(path[-1], _known_keys(model, path[:-1]))
    if problem["type"] == "missing":
        return where, f"'{path[-1]}' is required", "add it to the recipe"
    shown = repr(problem["input"])
    return where, f"{problem['msg']} (got {shown[:80]})", "see `rung plan --show-settings` for the allowed range"


def _known_keys(model: type[Settings], path: list[str]) -> list[str]:
    """Keys of the model found by following `path` through nested settings; the top one's if it cannot be followed."""
    current: Any = model
    for part in path:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None or not isinstance(field.annotation, type):
            break
        current = field.annotation
    return list(getattr(current, "model_fields", {}))
