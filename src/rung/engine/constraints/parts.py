"""The two parts of a text under the constraint `after`: what was free, and what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Parts", "parts_of"]


@dataclass(frozen=True, slots=True)
class Parts:
    """A text in two: `free` without its marker, and the `answer` (None: the marker never came), which begins at
    `start` of the whole text."""

    free: str
    answer: str | None
    start: int


def parts_of(text: str, constraint: Mapping[str, Any] | None) -> Parts:
    """The parts of a completion's text under the constraint of its request; without an `after` all of it is answer."""
    if constraint is None or "after" not in constraint:
        return Parts("", text, 0)
    marker = constraint["after"]["marker"]
    free, found, answer = text.partition(marker)
    return Parts(free, answer if found else None, len(free) + len(found))
