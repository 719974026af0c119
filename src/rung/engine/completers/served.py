"""A model that `rung serve` keeps loaded: the recipe's own weights, without loading them for every run.

In a recipe, with the server on this machine and its key in RUNG_SERVE_KEY: `completer: served`. What comes back is
what the engine gives in this process, so the outputs and their fingerprints are the same.
"""

from __future__ import annotations

from typing import ClassVar

from rung.engine.hosted.served import Served, ServedSettings
from rung.engine.opening import Described, Surroundings
from rung.records.contracts import Capabilities, Completer

__all__ = ["ServedOpener"]


class ServedOpener:
    """Opens the completer; the server is asked what it serves."""

    Settings: ClassVar[type[ServedSettings]] = ServedSettings

    def __init__(self, settings: ServedSettings) -> None:
        self._settings = settings

    def open(self, around: Surroundings) -> Completer:
        """The completer.

        Raises:
            SettingsError: no key in the named variable, or something else answers there.
            ProviderFailed: nothing answers.
            MissingDependency: the extra `hosted` is not installed.
        """
        return Served(self._settings, events=around.events, on_step=around.on_step)

    def described(self) -> Described:
        """The recipe's model elsewhere: it can what the engine can, and has no identity of its own."""
        able = Capabilities("served", logprobs=True, score=True, constraints=True, messages=False, clean=True)
        return Described(able, {}, same_weights=True)
