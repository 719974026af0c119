"""Completers from configuration: `{kind: local}`, `{kind: hosted, ...}`, `{kind: scripted, ...}`, or a user's own.

A kind is a file in engine/completers: a class with `Settings`, made from them, whose `open` gives the completer.
Checking a recipe needs `rung.base.lookup.part` alone; only opening brings torch or a provider's packages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from rung.base.events import Events
from rung.base.lookup import part
from rung.records.contracts import Completer

__all__ = ["FOLDER", "Opener", "Surroundings", "open_completer"]

FOLDER = "engine.completers"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a completer gets from whoever opens it.

    `model` is the source of a local one that names none; `load` turns a source into a loaded model (the clean loader
    when None); `on_step` is called with numbers of new tokens, and what it raises ends the work.
    """

    model: str = ""
    load: Callable[[str], Any] | None = None
    events: Events = field(default_factory=Events)
    on_step: Callable[[int], None] | None = None


class Opener(Protocol):
    """A kind of completer with its settings."""

    def open(self, around: Surroundings) -> Completer:
        """The completer, ready for use."""


def open_completer(
    spec: str | dict[str, Any], around: Surroundings | None = None, place: str = "completer"
) -> Completer:
    """The completer that `spec` (a kind's name, or `{kind: NAME, ...settings}`) describes.

    Raises:
        SettingsError: an unknown kind (the known ones are listed) or a setting that is wrong.
        MissingDependency: packages of an extra are not installed.
        ModelError, GuardFailed: the model of a local one.
    """
    kind, settings = part(FOLDER, spec, place)
    opener: Opener = kind(settings)
    return opener.open(around or Surroundings())
