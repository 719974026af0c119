"""Answers written in the recipe, played back: a dry run of everything around a model, without one."""

from __future__ import annotations

import itertools
from typing import ClassVar

from rung.base.settings import Field, Settings
from rung.engine.opening import Described, Surroundings
from rung.records.contracts import Completer
from rung.records.scripted import Scripted

__all__ = ["ScriptedOpener"]


class ScriptedSettings(Settings):
    """What is played."""

    answers: tuple[str, ...] = Field(min_length=1, description="answers in the order of requests, then from the start")


class ScriptedOpener:
    """Opens a completer that plays `answers`; it scores nothing."""

    Settings: ClassVar[type[ScriptedSettings]] = ScriptedSettings

    def __init__(self, settings: ScriptedSettings) -> None:
        self._settings = settings

    def open(self, around: Surroundings) -> Completer:
        """The completer."""
        answers = itertools.cycle(self._settings.answers)
        return Scripted(lambda request: next(answers), clean=False)

    def described(self) -> Described:
        """A script: everything but scores, and no model that a guard could have looked at."""
        return Described(
            Scripted([], clean=False).capabilities(), {"kind": "scripted", "answers": list(self._settings.answers)}
        )
