"""A model behind an OpenAI-compatible endpoint, paid by the request (extra `hosted`).

In a recipe, with two of its caps:

    {kind: hosted, address: "https://HOST/v1", model: NAME, key_variable: PROVIDER_KEY,
     prices: {NAME: {prompt: 0.1, completion: 0.4}}, limits: {money: 5, requests_per_minute: 300}}
"""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import urlsplit

from rung.base.fingerprint import plain
from rung.engine.hosted.completer import Hosted, promised
from rung.engine.hosted.settings import HostedSettings
from rung.engine.opening import Described, Surroundings
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
        prices = {**around.prices, **self._settings.prices}
        settings = self._settings.model_copy(update={"prices": prices})
        return Hosted(settings, events=around.events, on_step=around.on_step, wallet=around.wallet)

    def described(self) -> Described:
        """What the settings promise; the host is part of what a model's name means."""
        said = plain(self._settings)
        identity = {name: said[name] for name in ("model", "api", "fields", "privacy")}
        return Described(
            able=promised(self._settings),
            identity={"kind": "hosted", "host": urlsplit(self._settings.address).hostname, **identity},
            text=self._settings.api == "completions",
            paid_model=self._settings.model,
            price=self._settings.prices.get(self._settings.model),
        )
