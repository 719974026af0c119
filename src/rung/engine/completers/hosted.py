"""A model behind an OpenAI-compatible endpoint, paid by the request (extra `hosted`).

In a recipe, with two of its caps:

    {kind: hosted, address: "https://HOST/v1", model: NAME, key_variable: PROVIDER_KEY,
     prices: {NAME: {prompt: 0.1, completion: 0.4}}, limits: {money: 5, requests_per_minute: 300}}
"""

from __future__ import annotations

from typing import ClassVar

from rung.engine.hosted.completer import Hosted
from rung.engine.hosted.settings import HostedSettings
from rung.engine.opening import Surroundings
from rung.records.contracts import Completer

__all__ = ["HostedOpener"]


class HostedOpener:
    """Opens the hosted completer; the key is looked up now, nothing is sent."""

    Settings: ClassVar[type[HostedSettings]] = HostedSettings

    def __init__(self, settings: HostedSettings) -> None:
        self._settings = settings

    def open(self, around: Surroundings) -> Completer:
        """The completer.

        Raises:
            SettingsError: no key in the named variable, or a cap without a price.
            MissingDependency: the extra is not installed.
        """
        return Hosted(self._settings, events=around.events, on_step=around.on_step)
