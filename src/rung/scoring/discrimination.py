"""How well values tell good from bad: AUC with an interval that respects pairs, and thresholds by precision.

The unit that is drawn again in the bootstrap is the known pair: a good answer and what was made of it belong together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rung.base.proportions import wilson_interval
from rung.base.seeds import derive

__all__ = ["Auc", "Judgements", "auc", "precision_at", "threshold_for"]

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Auc:
    """Probability that a good answer outranks a bad one, ties counted half, with a 95 % interval."""

    value: float
    low: float
    high: float
    num_good: int
    num_bad: int


@dataclass(frozen=True)
class Judgements:
    """Deciding values of the known pairs and of their corruptions by kind; -inf where the critic abstained.

    `good[i]` is pair i's; `bad[kind][i]` that of its corruption, NaN where the kind does not apply to pair i.
    """

    good: Values
    bad: Mapping[str, Values]

    def of(self, rows: Sequence[int] | NDArray[np.int64]) -> Judgements:
        """The same for some of the pairs, which may come more than once."""
        return Judgements(self.good[rows], {kind: values[rows] for kind, values in self.bad.items()})

    def kinds(self, names: Sequence[str]) -> Judgements:
        """The same for some kinds."""
        return Judgements(self.good, {name: self.bad[name] for name in names})


def auc(judgements: Judgements, seed: int, num_resamples: int) -> Auc:
    """AUC over all kinds in `judgements`, each kind with equal weight.

    The interval is the percentile bootstrap over pairs. Where every comparison was won (or lost) it would collapse to a
    point, which a finite sample does not justify; then it is Wilson's for as many comparisons as there are pairs, since
    AUC (1 - AUC) / n is the largest variance that an AUC of n pairs can have (Birnbaum and Klose, 1957).
    """
    kinds = [_Wins(judgements.good, values) for values in judgements.bad.values()]
    value = float(np.mean([kind.share(np.ones(len(judgements.good))) for kind in kinds]))
    number = len(judgements.good)
    random_stream = np.random.default_rng(derive(seed, "auc", *judgements.bad))
    weights = random_stream.multinomial(number, np.full(number, 1 / number), size=num_resamples).astype(np.float64)
    drawn = np.nanmean([[kind.share(row) for row in weights] for kind in kinds], axis=0)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    num_bad = [int(np.sum(~np.isnan(values))) for values in judgements.bad.values()]
    if value in (0.0, 1.0):
        least = min(num_bad)
        low, high = wilson_interval(value * least, least)
    return Auc(value, float(low), float(high), number, sum(num_bad))


class _Wins:
    """Who outranks whom: computed once, weighed many times."""

    def __init__(self, good: Values, bad: Values) -> None:
        self._there = ~np.isnan(bad)
        others = bad[self._there]
        self._wins = (good[:, None] > others[None, :]) + 0.5 * (good[:, None] == others[None, :])

    def share(self, weights: Values) -> float:
        """AUC where pair i counts `weights[i]` times; NaN when no corruption was drawn."""
        right = weights[self._there]
        total = weights.sum() * right.sum()
        return float(weights @ self._wins @ right / total) if total else math.nan


def precision_at(judgements: Judgements, threshold: float, good_share: float) -> tuple[float, float]:
    """(precision, recall) of accepting values that are positive and reach `threshold`.

    `good_share` is the share of good answers among what will be judged; the rest is taken to be of the kind that the
    critic fails on most, since nobody knows the true mixture. NaN precision when nothing at all is accepted.
    """
    precision, recall = _curve(judgements, np.array([threshold]), good_share)
    return float(precision[0]), float(recall[0])


def threshold_for(judgements: Judgements, precision: float, good_share: float) -> float | None:
    """The lowest threshold, so the one of largest recall, that reaches the precision; None where none does.

    Candidates lie half-way between neighbouring values, so that none of the values seen sits on the border.
    """
    seen = np.concatenate([judgements.good, *judgements.bad.values()])
    positive = np.unique(seen[np.isfinite(seen) & (seen > 0)])
    candidates = np.concatenate([[0.0], (positive[1:] + positive[:-1]) / 2])
    reached, recall = _curve(judgements, candidates, good_share)
    fits = candidates[(recall > 0) & (reached >= precision)]
    return float(fits[0]) if len(fits) else None


def _curve(judgements: Judgements, thresholds: Values, good_share: float) -> tuple[Values, Values]:
    """(precision, recall) from each threshold on."""
    recall = _accepted_shares(judgements.good, thresholds)
    wrongly = np.max([_accepted_shares(v[~np.isnan(v)], thresholds) for v in judgements.bad.values()], axis=0)
    accepted = good_share * recall + (1 - good_share) * wrongly
    precision = np.full(len(thresholds), np.nan)
    np.divide(good_share * recall, accepted, out=precision, where=accepted > 0)
    return precision, recall


def _accepted_shares(values: Values, thresholds: Values) -> Values:
    positive = np.sort(values[values > 0])
    reaching = len(positive) - np.searchsorted(positive, thresholds, side="left")
    shares: Values = reaching / max(1, len(values))
    return shares
