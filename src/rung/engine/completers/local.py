"""A model loaded here and run by our engine. Torch comes in when it is opened, not before."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from rung.base.errors import SettingsError
from rung.base.settings import Field, Settings
from rung.engine.opening import Described, Surroundings
from rung.engine.settings import EngineSettings
from rung.records.contracts import Capabilities, Completer

__all__ = ["LocalOpener"]


class LocalSettings(Settings):
    """Which model, and how the engine runs it."""

    model: str = Field("", description="source such as package:NAME or hf:ORG/NAME; empty: the recipe's model")
    engine: EngineSettings = Field(default_factory=EngineSettings, description="sizes of the engine")


class LocalOpener:
    """Opens the engine over a model source."""

    Settings: ClassVar[type[LocalSettings]] = LocalSettings

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings

    def open(self, around: Surroundings) -> Completer:
        """Load the model and put the engine over it.

        Raises:
            SettingsError: no model is named here or by the caller.
            ModelError, GuardFailed: it cannot be loaded.
        """
        source = self._settings.model or around.model
        if not source:
            raise SettingsError("no model is named", place="local.model", hint="model: package:NAME, or hf:ORG/NAME")
        load = around.load or _room("models.load").load
        engine = _room("engine.engine").Engine
        opened: Completer = engine(load(source), self._settings.engine, events=around.events, on_step=around.on_step)
        return opened

    def described(self) -> Described:
        """The recipe's model in this process: what a stage does anyway, so nothing of it is an identity of its own.

        Raises:
            SettingsError: it has settings, which a stage has itself.
        """
        if self._settings != LocalSettings():
            raise SettingsError(
                "a stage's own model is the recipe's, and its engine is set beside it",
                place="completer.local",
                hint="write the recipe's model and the stage's engine, and leave the completer out",
            )
        able = Capabilities("local", logprobs=True, score=True, constraints=True, messages=False, clean=True)
        return Described(able, {}, same_weights=True)


def _room(name: str) -> Any:
    """A module that brings torch, imported now."""
    return importlib.import_module(f"rung.{name}")
