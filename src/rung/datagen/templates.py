"""Templates of prompts, checked when they are read: a placeholder that is missing or unknown fails before any work.

A template is a text with `{placeholders}`. What asks for it says which placeholders it must have and which it may have.
Its version is a hash of its text, which goes into the records that it made.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rung.base.errors import DataError
from rung.base.fingerprint import content_hash
from rung.base.settings import nearest

__all__ = ["Template", "placeholders", "read_yaml", "template"]


@dataclass(frozen=True, slots=True)
class Template:
    """A checked text; `style` is what it is filed under."""

    name: str
    text: str
    style: str = ""

    @property
    def version(self) -> str:
        """Eight hexadecimal digits that follow from the text."""
        return content_hash(self.text.encode())[:8]

    def fill(self, **values: str) -> str:
        """The text with every placeholder replaced; values are taken as they are, braces and all."""
        return self.text.format_map(values)


def placeholders(text: str, place: str) -> frozenset[str]:
    """Names of the placeholders in a text.

    Raises:
        DataError: an open brace, or a placeholder that is more than a name.
    """
    try:
        fields = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(text)]
    except ValueError as error:
        raise DataError(f"the braces do not match: {error}", place=place, hint="write {{ for a brace") from error
    for name, spec, conversion in fields:
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise DataError(f"'{{{name}}}' is no plain placeholder", place=place, hint="{name}, nothing else in it")
    return frozenset(name for name, _, _ in fields if name is not None)


def template(name: str, text: Any, needed: Collection[str], allowed: Collection[str] = (), style: str = "") -> Template:
    """A template that has every placeholder in `needed` and none but these and `allowed`.

    Raises:
        DataError: naming the template and the placeholder.
    """
    if not isinstance(text, str) or not text.strip():
        raise DataError("a template is a text", place=name)
    found = placeholders(text, name)
    if unknown := sorted(found - {*needed, *allowed}):
        raise DataError(f"unknown placeholder '{{{unknown[0]}}}'", place=name,
                        hint=nearest(unknown[0], [*needed, *allowed]))  # fmt: skip
    if missing := sorted(set(needed) - found):
        raise DataError(f"the placeholder '{{{missing[0]}}}' is missing", place=name, hint=f"it needs {sorted(needed)}")
    return Template(name, text.strip(), style)


def read_yaml(path: Path, what: str) -> Mapping[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        DataError: unreadable, not YAML, or no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {what}: {error}", place=path.name) from error
    if not isinstance(values, Mapping) or not values:
        raise DataError(f"{what} are a mapping", place=path.name)
    return values
