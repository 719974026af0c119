"""What a run will cost, before it is run; and how far that was off, after."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from rung.base.prices import Price, cost
from rung.pipeline.budget import BudgetSettings, Spend
from rung.pipeline.identity import MODEL_INPUT, Identity
from rung.pipeline.rates import Rates
from rung.pipeline.recipe import StageSpec
from rung.pipeline.stage import Estimate, Terms
from rung.records.manifest import Opened

__all__ = ["Projection", "at_once", "best_of_n", "compare", "priced", "project", "shard_cost", "stage_estimate"]


@dataclass(frozen=True, slots=True)
class Projection:
    """Cost of several stages together, as a range, and its part of the money cap (None without one)."""

    seconds: float
    seconds_high: float
    tokens: float
    money: float
    money_high: float
    share: float | None


def stage_estimate(
    spec: StageSpec, inputs: Mapping[str, Opened], identity: Identity, rates: Rates, terms: Terms
) -> Estimate:
    """The stage's own estimate, or what its amount of work cost the last time, with the machine's hours and what
    providers charge priced in."""
    stage, model = spec.stage, identity.parents.get(MODEL_INPUT, "")
    own = rates.expected(spec.kind, model, stage.units(inputs), stage.estimate(inputs))
    return priced(own, terms.budget.price_per_hour, terms.prices)


def priced(estimate: Estimate, price_per_hour: float, prices: Mapping[str, Price] | None = None) -> Estimate:
    """`estimate` with the price of its seconds and of its bill added to its money, and a bill without a price named
    in its basis."""
    bill, hours = estimate.bill, estimate.seconds / 3600
    price = bill and (bill.price or (prices or {}).get(bill.model))
    charged = cost(price, bill.tokens) if bill and price else 0.0
    basis = f"{estimate.basis}; no price of '{bill.model}'" if bill and not price else estimate.basis
    return replace(estimate, money=estimate.money + hours * price_per_hour + charged, basis=basis)


def at_once(estimate: Estimate, num_workers: int) -> Estimate:
    """`estimate` with its time by the clock: whole shards, `num_workers` of them at the same time."""
    rounds = math.ceil(estimate.num_shards / num_workers)
    return replace(estimate, wall_seconds=rounds * estimate.seconds / estimate.num_shards)


def shard_cost(estimate: Estimate, price_per_hour: float, prices: Mapping[str, Price] | None = None) -> Spend:
    """What one shard of an estimate that is not priced yet will cost."""
    whole, parts = priced(estimate, price_per_hour, prices), estimate.num_shards
    return Spend(whole.seconds / parts, whole.tokens / parts, whole.money / parts)


def best_of_n(estimate: Estimate, response_share: float, times: float) -> Estimate:
    """`estimate` when `times` as many responses are drawn: instructions are paid once, only the share of the cost that
    responses had is multiplied."""
    factor, bill = 1 + (times - 1) * response_share, estimate.bill
    return replace(
        estimate,
        bill=bill and replace(bill, tokens=bill.tokens.times(factor)),
        seconds=factor * estimate.seconds,
        seconds_high=factor * estimate.seconds_high,
        tokens=factor * estimate.tokens,
    )


def project(estimates: Iterable[Estimate], budget: BudgetSettings) -> Projection:
    """Sum of priced estimates; the high end uses `seconds_high` where a stage gave one."""
    rows = list(estimates)
    extra = [max(0.0, row.seconds_high - row.seconds) for row in rows]
    money = sum(row.money for row in rows)
    return Projection(
        seconds=sum(row.seconds for row in rows),
        seconds_high=sum(row.seconds for row in rows) + sum(extra),
        tokens=sum(row.tokens for row in rows),
        money=money,
        money_high=money + sum(extra) / 3600 * budget.price_per_hour,
        share=money / budget.money if budget.money else None,
    )


def compare(estimate: Estimate, spend: Spend) -> dict[str, float]:
    """The estimate with its error against what was spent, in percent of the estimate, for the manifest."""
    rows = {name: getattr(estimate, name) for name in ("seconds", "tokens", "money")}
    if estimate.wall_seconds != estimate.seconds:
        rows["wall_seconds"] = estimate.wall_seconds
    errors = {
        f"{name}_error_percent": 100.0 * (getattr(spend, name) - expected) / expected
        for name, expected in rows.items()
        if expected > 0
    }
    return {**rows, **errors}
