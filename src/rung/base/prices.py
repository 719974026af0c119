"""What outside models charge: one price a model, with the day it held and where it was read.

A price is a fact of a day. Nothing here knows any: a recipe's `prices` says them, inline or in a file beside it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from rung.base.errors import SettingsError
from rung.base.settings import Field, Settings, validate

__all__ = ["Price", "Tokens", "cost", "price_table"]


class Price(Settings):
    """The price of one model, per million tokens."""

    prompt: float = Field(ge=0, description="price of a million prompt tokens")
    completion: float = Field(ge=0, description="price of a million new tokens")
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$", description="ISO 4217 code; caps on money are in it")
    date: datetime.date | None = Field(None, description="the day it was read; needed in a recipe's table")
    source: str = Field("", max_length=300, description="where it was read; needed in a recipe's table")


class Tokens(Settings):
    """Tokens that a provider charges for."""

    prompt: float = Field(0.0, ge=0, description="prompt tokens")
    completion: float = Field(0.0, ge=0, description="new tokens")

    def less(self, other: Tokens) -> Tokens | None:
        """What came on top of `other`; None where nothing did."""
        more = Tokens(prompt=self.prompt - other.prompt, completion=self.completion - other.completion)
        return more if more.prompt or more.completion else None

    def times(self, factor: float) -> Tokens:
        """So many times as many."""
        return Tokens(prompt=factor * self.prompt, completion=factor * self.completion)


def cost(price: Price, tokens: Tokens) -> float:
    """What `tokens` cost, in the price's currency."""
    return (tokens.prompt * price.prompt + tokens.completion * price.completion) / 1_000_000


def price_table(said: Mapping[str, Any], place: str = "prices") -> dict[str, Price]:
    """A recipe's table, model name -> price.

    Raises:
        SettingsError: an entry that is not a price, has no date or source, or another currency than the first.
    """
    table = {model: _entry(values, f"{place}.{model}") for model, values in said.items()}
    currencies = sorted({price.currency for price in table.values()})
    if len(currencies) > 1:
        raise SettingsError(
            f"prices in {', '.join(currencies)}: a cap cannot add them up",
            place=place,
            hint="convert them to one currency, and say so in `source`",
        )
    return table


def _entry(values: Any, place: str) -> Price:
    if not isinstance(values, Mapping):
        raise SettingsError(f"a price is a mapping, got {values!r:.60}", place=place, hint=_FORM)
    price = validate(Price, values, place)
    for name, value in (("date", price.date), ("source", price.source)):
        if not value:
            raise SettingsError(f"the price has no {name}: prices change", place=f"{place}.{name}", hint=_FORM)
    return price


_FORM = "MODEL: {prompt: 0.1, completion: 0.4, currency: USD, date: 2026-11-21, source: the provider's price page}"
