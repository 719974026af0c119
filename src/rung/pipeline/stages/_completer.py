"""Who completes for a stage: the recipe's model in this process, the same weights behind `rung serve`, or somebody
else's model behind an endpoint. What a completer cannot do is said before any work; what it is goes into the manifest.

Served or local is no difference to an output, as the number of workers is none. Another model is: it takes the place
of the recipe's in the fingerprint, it needs `allow_unclean_model`, and everything downstream carries that bypass.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rung.base.errors import GuardFailed, SettingsError
from rung.base.fingerprint import canonical, plain
from rung.base.prices import Tokens
from rung.base.settings import Field, Settings, unsaid
from rung.engine.hosted.served import Served
from rung.engine.opening import Described, Surroundings, opener
from rung.pipeline.budget import Budget, Spend
from rung.pipeline.stage import Bill, Context, KnownBy, Terms
from rung.pipeline.stages._model import room
from rung.records.contracts import Completer
from rung.records.manifest import Opened

__all__ = [
    "CompletingSettings", "GeneratingSettings", "OutsideModel", "RunWallet", "bill_for", "check_completer", "described",
    "judged_by_same", "known_by", "open_outside", "usage",
]  # fmt: skip


class CompletingSettings(Settings):
    """Who completes."""

    completer: str | dict[str, Any] = Field(
        "",
        exclude_if=unsaid(),
        description="a part of engine/completers: served, {kind: hosted, ...}; empty: the recipe's model, loaded here",
    )


class GeneratingSettings(CompletingSettings):
    """Who writes what a model will be trained on."""

    allow_unclean_model: bool = Field(
        False,
        exclude_if=unsaid(),
        description="a completer that no clean loader vouches for; recorded as a bypass",
    )


@runtime_checkable
class _Paid(Protocol):
    """A completer that counts what it was charged for."""

    @property
    def spend(self) -> Any:
        """With `prompt_tokens` and `completion_tokens`."""


@dataclass(frozen=True, slots=True)
class OutsideModel:
    """An opened completer with what a manifest says of its model."""

    completer: Completer
    facts: Mapping[str, Any]


class RunWallet:
    """The run's budget as a completer's threads may use it: one at a time."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._one = budget, threading.Lock()

    def allows(self, money: float) -> bool:
        """Whether so much more may be spent."""
        with self._one:
            return self._budget.allows(money)

    def pay(self, money: float) -> None:
        """Debit it now, so that a killed attempt is still paid for."""
        with self._one:
            self._budget.debit(Spend(money=money))

    def step(self, num_tokens: int) -> None:
        """Debit tokens; a stop request or a spent cap ends the work."""
        with self._one:
            self._budget.poll(tokens=num_tokens)


def described(settings: CompletingSettings, place: str = "completer") -> Described | None:
    """What the settings' completer says of itself; None for the recipe's model in this process.

    Raises:
        SettingsError: an unknown kind, or settings that are wrong.
    """
    return opener(settings.completer, place).described() if settings.completer else None


def known_by(settings: CompletingSettings) -> KnownBy:
    """The settings without who completes; another model than the recipe's stands in its place, as a bypass too where
    its output may be trained on."""
    said, about = plain(settings), described(settings)
    for name in ("completer", "allow_unclean_model"):
        said.pop(name, None)
    if about is None or about.same_weights:
        return KnownBy(said)
    bypass = f"unclean model: {about.able.name} came through no clean loader (allow_unclean_model)"
    generates = isinstance(settings, GeneratingSettings)
    return KnownBy(said, canonical(about.identity), (bypass,) if generates else ())


def check_completer(settings: CompletingSettings, terms: Terms, messages: bool = False) -> Described | None:
    """Refuse a completer that cannot do what every stage asks of one: continue bare text (or, with `messages`, answer
    a conversation), within caps that can be reckoned. Returns what it says of itself.

    Raises:
        SettingsError: naming the setting, what is wrong with it and what to write.
    """
    about = described(settings)
    if about is None:
        return None
    able = about.able
    if not about.text and not messages:
        raise SettingsError(
            f"'{able.name}' takes messages only, and this stage continues bare text",
            place="completer.api",
            hint="api: completions, where the server has it; a chat's template is not what a base model is asked in",
        )
    if about.same_weights and not terms.model:
        raise SettingsError(
            f"'{able.name}' has the recipe's model, and the recipe names none",
            place="completer",
            hint="model: SOURCE, the one that `rung serve` was started with",
        )
    if about.paid_model:
        _check_price(about, terms)
    if isinstance(settings, GeneratingSettings) and not able.clean and not settings.allow_unclean_model:
        raise SettingsError(
            f"no clean loader vouches for '{able.name}'",
            place="completer",
            hint="set allow_unclean_model: true beside it, which every manifest downstream records",
        )
    return about


def _check_price(about: Described, terms: Terms) -> None:
    price = about.price or terms.prices.get(about.paid_model)
    if price is None and terms.budget.money is not None:
        known = ", ".join(terms.prices) or "none"
        raise SettingsError(
            f"the run has a cap on money, and no price of '{about.paid_model}' is known",
            place="completer.model",
            hint=f"add it to the recipe's prices (known: {known}), or take budget.money away",
        )
    others = {one.currency for one in terms.prices.values()}
    if price is not None and others - {price.currency}:
        raise SettingsError(
            f"'{about.paid_model}' is priced in {price.currency}, the recipe's prices are in {', '.join(others)}",
            place="completer.prices",
            hint="one currency for all: caps are in it",
        )


def open_outside(context: Context, settings: CompletingSettings) -> OutsideModel | None:
    """The settings' completer, paid by the run; None for the recipe's model in this process.

    Raises:
        SettingsError, MissingDependency, ProviderFailed: it cannot be opened.
        ModelError: a server with other weights than the recipe's model.
        GuardFailed: a server whose model the guard found to be no base model.
    """
    about = described(settings, f"{context.name}.completer")
    if about is None or settings.completer in ("local", {"kind": "local"}):
        return None
    wallet = RunWallet(context.budget)
    made = opener(settings.completer, f"{context.name}.completer").open(
        Surroundings(
            model=context.model_source,
            events=context.events,
            on_step=wallet.step,
            wallet=wallet,
            prices=context.job.prices,
        )
    )
    if isinstance(made, Served):
        _check_served(made, context)
        return OutsideModel(made, made.facts)
    return OutsideModel(made, _facts(about))


def _check_served(made: Served, context: Context) -> None:
    found = room("models.found").find(context.model_source, room("models.cache").Cache())
    made.check_weights(found.content_id, context.model_source)
    report = made.facts.get("report", {})
    if report.get("verdict") == "contaminated":
        raise GuardFailed(
            f"the server's model is no base model: {'; '.join(report.get('reasons', ()))}",
            place=f"{context.name}.completer",
            hint="name a base model",
        )


def _facts(about: Described) -> dict[str, Any]:
    """As `rung.pipeline.stages._model.model_facts`, of a model that was not loaded here."""
    report = {
        "model_name": about.able.name,
        "loader_version": "none",
        "verdict": "unchecked",
        "reasons": ["it answers from outside: nothing was loaded that could have been looked at"],
        "template_disabled": None,
        "add_special_tokens": None,
    }
    return {
        "source": "",
        "content_id": "",
        "family": "",
        "path": "outside",
        "precision": "unknown",
        "report": report,
        "outside": {"identity": dict(about.identity), "able": plain(about.able)},
    }


def judged_by_same(settings: CompletingSettings, calibration: Opened) -> CompletingSettings | None:
    """Settings of the completer that critics were calibrated with; None when it has the same weights as this stage's,
    for a critic is what was measured: its rubric and its model."""
    own = CompletingSettings(completer=settings.completer)
    measured = CompletingSettings(completer=calibration.manifest.settings.get("completer", ""))
    return None if known_by(measured).model == known_by(own).model else measured


def usage(completer: Completer) -> Tokens:
    """What was charged for so far; nothing where nothing is."""
    if not isinstance(completer, _Paid):
        return Tokens()
    return Tokens(prompt=completer.spend.prompt_tokens, completion=completer.spend.completion_tokens)


def bill_for(settings: CompletingSettings, tokens: Tokens) -> Bill | None:
    """The bill for `tokens`; None where nothing is charged."""
    about = described(settings)
    if about is None or not about.paid_model:
        return None
    return Bill(about.paid_model, tokens, about.price)
