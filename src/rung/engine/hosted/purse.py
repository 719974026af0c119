"""What a provider was paid, and the caps that hold before a request is sent.

A request reserves its upper cost first. Where the rest of the cap is reserved by requests under way, it waits for
them to come in under their estimate; only what is really spent can end the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from rung.base.errors import BudgetSpent, SettingsError
from rung.base.prices import Price, Tokens
from rung.base.prices import cost as cost_of
from rung.engine.hosted.settings import HostedSettings

__all__ = ["Bill", "Purse", "Spend", "Usage", "Wallet"]


class Wallet(Protocol):
    """The money of whoever pays in the end; asked from many threads."""

    def allows(self, money: float) -> bool:
        """Whether so much more may be spent, on top of all that was paid."""

    def pay(self, money: float) -> None:
        """So much was charged."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Spend:
    """What was sent and paid so far. `requests` counts every attempt, `retries` those after a first.

    `money` is what the server's own token counts cost; `money_unsure` is the upper estimate of attempts that may be
    charged though no count came back. Both count against the cap. `priced` is False where no price is known.
    """

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0
    money_unsure: float = 0.0
    priced: bool = False


@dataclass(slots=True)
class Bill:
    """How one attempt ended: with a usage, free, or (when neither was said) unsure."""

    usage: Usage | None = None
    free: bool = False


class Purse:
    """Counts and caps; safe to use from many threads.

    Args:
        settings: limits and prices.
        wallet: is asked before every request and pays for it, on top of the settings' own caps.

    Raises:
        SettingsError: a cap on money for a model without a price.
    """

    def __init__(self, settings: HostedSettings, wallet: Wallet | None = None) -> None:
        self._limits, self._price, self._wallet = settings.limits, settings.prices.get(settings.model), wallet
        if self._limits.money is not None and self._price is None:
            raise SettingsError(
                f"a cap on money needs the price of '{settings.model}'",
                place="hosted.prices",
                hint="prices: {MODEL: {prompt: ..., completion: ...}}, per million tokens",
            )
        self._spend = Spend(priced=self._price is not None)
        self._under_way: list[float] = []  # summed anew each time: a running total would not come back to zero
        self._changed = threading.Condition()

    @property
    def spend(self) -> Spend:
        """So far."""
        return self._spend

    @contextlib.contextmanager
    def paying(self, upper: Usage, again: bool) -> Iterator[Bill]:
        """Reserve the upper cost of one attempt and settle it by what the bill says at the end.

        Raises:
            BudgetSpent: a cap has no room for it; nothing was sent.
        """
        cost, bill = _cost(self._price, upper), Bill()
        self._reserve(cost, again)
        try:
            yield bill
        finally:
            self._settle(cost, bill)

    def _reserve(self, cost: float, again: bool) -> None:
        with self._changed:
            while not self._has_room(cost):
                self._changed.wait()
            self._under_way.append(cost)
            spend = self._spend
            self._spend = dataclasses.replace(spend, requests=spend.requests + 1, retries=spend.retries + again)

    def _has_room(self, cost: float) -> bool:
        """Whether the attempt may go now; False where attempts under way have to come back first."""
        limits, used = self._limits, self._spend.money + self._spend.money_unsure
        if limits.requests is not None and self._spend.requests + 1 > limits.requests:
            raise _spent(f"the cap of {limits.requests} requests is reached", "requests")
        if limits.money is not None and used + cost > limits.money:
            raise _spent(
                f"the cap of {limits.money:g} has no room for the next request: {used:.6g} spent, up to "
                f"{used + cost:.6g} with it",
                "money",
            )
        reserved = sum(self._under_way) + cost
        if limits.money is not None and used + reserved > limits.money:
            return False
        return self._wallet is None or self._wallet_has_room(self._wallet, reserved, cost)

    def _wallet_has_room(self, wallet: Wallet, reserved: float, cost: float) -> bool:
        if wallet.allows(reserved):
            return True
        if self._under_way:
            return False
        raise BudgetSpent(
            f"the run's cap on money has no room for the next request, which costs up to {cost:.6g}",
            place="budget.money",
            hint="raise it and run again to go on: --set budget.money=...",
        )

    def _settle(self, cost: float, bill: Bill) -> None:
        with self._changed:
            usage = bill.usage or Usage(0, 0)
            paid, unsure = _cost(self._price, usage), 0.0 if bill.free or bill.usage else cost
            self._under_way.remove(cost)
            self._spend = dataclasses.replace(
                self._spend,
                prompt_tokens=self._spend.prompt_tokens + usage.prompt_tokens,
                completion_tokens=self._spend.completion_tokens + usage.completion_tokens,
                money=self._spend.money + paid,
                money_unsure=self._spend.money_unsure + unsure,
            )
            if self._wallet is not None:
                self._wallet.pay(paid + unsure)
            self._changed.notify_all()


def _cost(price: Price | None, usage: Usage) -> float:
    if price is None:
        return 0.0
    return cost_of(price, Tokens(prompt=usage.prompt_tokens, completion=usage.completion_tokens))


def _spent(message: str, cap: str) -> BudgetSpent:
    return BudgetSpent(
        message,
        place=f"hosted.limits.{cap}",
        hint=f"answers that came are kept; raise limits.{cap} and run again to go on",
    )
