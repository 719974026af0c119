"""What a run will cost, before it is run; and how far that was off, after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rung.pipeline.budget import BudgetSettings, Spend
from rung.pipeline.identity import MODEL_INPUT, Identity
from rung.pipeline.rates import Rates
from rung.pipeline.recipe import StageSpec
from rung.pipeline.stage import Estimate
from rung.records.manifest import Opened

__all__ = ["Projection", "compare", "priced", "project", "stage_estimate"]


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
    spec: StageSpec, inputs: Mapping[str, Opened], identity: Identity, rates: Rates, budget: BudgetSettings
) -> Estimate:
    """The stage's own estimate, or what its amount of work cost the last time, with the machine's hours priced in."""
    stage, model = spec.stage, identity.parents.get(MODEL_INPUT, "")
    own = rates.expected(spec.kind, model, stage.units(inputs), stage.estimate(inputs))
    return priced(own, budget.price_per_hour)


def priced(estimate: Estimate, price_per_hour: float) -> Estimate:
    """`estimate` with the price of its seconds added to its money."""
    return Estimate(
        seconds=estimate.seconds,
        tokens=estimate.tokens,
        money=estimate.money + estimate.seconds / 3600 * price_per_hour,
        basis=estimate.basis,
        seconds_high=estimate.seconds_high,
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
    rows = {"seconds": estimate.seconds, "tokens": estimate.tokens, "money": estimate.money}
    errors = {
        f"{name}_error_percent": 100.0 * (getattr(spend, name) - expected) / expected
        for name, expected in rows.items()
        if expected > 0
    }
    return {**rows, **errors}
