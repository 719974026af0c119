"""Numbers with error bars: single scores, paired comparisons, many comparisons at once, and power before the run.

Two systems are compared on the same items, paired, never by two independent intervals. Items made from one pattern
(a family) are not independent, so the bootstrap resamples families and the t-test has (families - 1) degrees of
freedom. Levels are two-sided unless a name says otherwise; proportions and differences are fractions, not points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from rung.base.errors import DataError
from rung.base.proportions import fair_coin_tail, sign_test, wilson_interval

__all__ = [
    "Area",
    "ClusteredMean",
    "Detectable",
    "Equivalence",
    "Interval",
    "Lift",
    "McNemar",
    "Proportion",
    "area_under_curve",
    "benjamini_hochberg",
    "clustered_mean",
    "cohens_h",
    "equivalence",
    "holm",
    "item_correlation",
    "mcnemar",
    "mcnemar_of",
    "minimum_detectable_effect",
    "paired_bootstrap",
    "wilson",
    "worse_than",
]

EXACT_BELOW = 25
"""Under this many discordant pairs McNemar's test is the exact binomial one."""
_TINY = 1e-9  # the interval's equation has a trivial root at 0 and at 1


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence interval at `level`."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class Proportion:
    """`successes` of `n`, with Wilson's interval; `rate` is NaN-free: 0.0 when n is 0, with the interval [0, 1]."""

    successes: int
    n: int
    rate: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class McNemar:
    """The paired test on discordant pairs: how many items only the first system passed, and only the second.

    `statistic` is the continuity-corrected chi-squared value, None where the exact binomial test was used.
    """

    only_first: int
    only_second: int
    p: float
    method: str
    statistic: float | None = None


@dataclass(frozen=True, slots=True)
class Lift:
    """Second minus first on the same items, with a percentile interval of the seeded cluster bootstrap."""

    difference: float
    interval: Interval
    standard_error: float
    num_items: int
    num_clusters: int
    num_resamples: int
    seed: int


@dataclass(frozen=True, slots=True)
class ClusteredMean:
    """A mean with its cluster-robust standard error and a t-test against 0 with (clusters - 1) degrees of freedom."""

    mean: float
    standard_error: float
    degrees: int
    t: float
    p: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest paired difference that `n` items would show: stated before an experiment.

    `difference` is a fraction. `attainable` is False when it exceeds the assumed share of discordant pairs: a
    difference can be no larger than that share, so this design cannot show one.
    """

    n: int
    discordance: float
    power: float
    alpha: float
    design_effect: float
    difference: float
    attainable: bool


@dataclass(frozen=True, slots=True)
class Area:
    """Area under the ROC curve with an interval that stays honest at 0 and 1."""

    value: float
    interval: Interval
    num_positive: int
    num_negative: int


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Two one-sided tests: `p_lower` against "worse by the margin or more", `p_upper` against "better by it or more".

    `not_worse` uses the first alone (non-inferiority), `equivalent` needs both.
    """

    mean: float
    margin: float
    p_lower: float
    p_upper: float
    not_worse: bool
    equivalent: bool


def wilson(successes: int, n: int, level: float = 0.95) -> Proportion:
    """Wilson's score interval of a proportion (Wilson 1927); it keeps its coverage near 0 and 1, where Wald's fails.

    Raises:
        DataError: more successes than trials, or a negative count.
    """
    if not 0 <= successes <= n:
        raise DataError(f"{successes} successes of {n} is no proportion")
    if n == 0:
        return Proportion(0, 0, 0.0, Interval(0.0, 1.0, level))
    low, high = wilson_interval(successes, n, level)
    low, high = (0.0 if successes == 0 else low), (1.0 if successes == n else high)
    return Proportion(successes, n, successes / n, Interval(low, high, level))


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """McNemar's test (1947): exact binomial under 25 discordant pairs, else chi-squared with continuity correction."""
    if only_first < 0 or only_second < 0:
        raise DataError(f"negative discordant count: {only_first}, {only_second}")
    discordant = only_first + only_second
    if discordant == 0:
        return McNemar(0, 0, 1.0, "exact")
    if discordant < EXACT_BELOW:
        return McNemar(only_first, only_second, sign_test(only_first, only_second), "exact")
    statistic = max(0.0, abs(only_first - only_second) - 1) ** 2 / discordant
    return McNemar(only_first, only_second, float(special.chdtrc(1, statistic)), "chi-squared", statistic)


def mcnemar_of(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """McNemar's test of two paired lists of verdicts."""
    _check_paired(first, second)
    pairs = list(zip(first, second, strict=True))
    return mcnemar(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))


def worse_than(only_first: int, only_second: int) -> float:
    """One-sided exact p for "the second system is worse than the first"; 1.0 without discordant pairs."""
    discordant = only_first + only_second
    return fair_coin_tail(only_first, discordant) if discordant else 1.0


def cohens_h(first: float, second: float) -> float:
    """Cohen's effect size for two proportions, second against first: 2 asin(sqrt(p2)) - 2 asin(sqrt(p1))."""
    return 2 * math.asin(math.sqrt(second)) - 2 * math.asin(math.sqrt(first))


def paired_bootstrap(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Lift:
    """Percentile interval of the mean difference second - first; whole clusters are drawn with replacement.

    Args:
        first: item scores of one system.
        second: item scores of the other, same items, same order.
        clusters: the family of each item; None makes every item its own cluster.
        num_resamples: how many bootstrap samples.
        seed: of the draws; the same seed gives the same interval.
        level: of the interval.

    Raises:
        DataError: lists of different length, or no items.
    """
    _check_paired(first, second)
    differences = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    sums, counts = _cluster_sums(differences, clusters)
    generator = np.random.default_rng(seed)
    means = np.empty(num_resamples)
    block = max(1, 2_000_000 // len(sums))
    for start in range(0, num_resamples, block):
        stop = min(num_resamples, start + block)
        drawn = generator.integers(0, len(sums), size=(stop - start, len(sums)))
        means[start:stop] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = (1 - level) / 2
    low, high = (float(value) for value in np.quantile(means, [tail, 1 - tail]))
    error = float(means.std(ddof=1)) if num_resamples > 1 else 0.0
    mean = float(differences.mean())
    return Lift(mean, Interval(low, high, level), error, len(differences), len(sums), num_resamples, seed)


def clustered_mean(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> ClusteredMean:
    """Mean with a cluster-robust (CR1) standard error and the t distribution with (clusters - 1) degrees of freedom.

    With one item per cluster this is the ordinary one-sample t-test.

    Raises:
        DataError: fewer than two clusters.
    """
    data = np.asarray(values, dtype=float)
    sums, counts = _cluster_sums(data, clusters)
    num_clusters = len(sums)
    if num_clusters < 2:
        raise DataError(f"a clustered test needs at least two clusters, got {num_clusters}")
    mean = float(data.mean())
    residuals = sums - counts * mean
    variance = float((residuals**2).sum()) / len(data) ** 2 * num_clusters / (num_clusters - 1)
    error, degrees = math.sqrt(variance), num_clusters - 1
    without_spread = 0.0 if mean == 0.0 else math.copysign(math.inf, mean)
    t = mean / error if error else without_spread
    half = error * float(special.stdtrit(degrees, 0.5 + level / 2))
    p = float(2 * special.stdtr(degrees, -abs(t)))
    return ClusteredMean(mean, error, degrees, t, p, Interval(mean - half, mean + half, level))


def equivalence(
    differences: Sequence[float],
    margin: float,
    clusters: Sequence[Hashable] | None = None,
    alpha: float = 0.05,
) -> Equivalence:
    """Two one-sided t-tests (Schuirmann 1987) of a mean difference against +-`margin`, clustered."""
    if margin <= 0:
        raise DataError(f"an equivalence margin must be positive, got {margin}")
    summary = clustered_mean(differences, clusters)
    if summary.standard_error == 0.0:
        lower = 0.0 if summary.mean > -margin else 1.0
        upper = 0.0 if summary.mean < margin else 1.0
    else:
        error = summary.standard_error
        lower = float(special.stdtr(summary.degrees, -(summary.mean + margin) / error))
        upper = float(special.stdtr(summary.degrees, (summary.mean - margin) / error))
    return Equivalence(summary.mean, margin, lower, upper, lower < alpha, max(lower, upper) < alpha)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of the step-up procedure (Benjamini and Hochberg 1995), in the order given.

    A comparison is significant at false discovery rate q exactly when its adjusted value is at most q.
    """
    return _step(p_values, lambda p, rank, count: p * count / rank, upwards=True)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of Holm's step-down procedure (1979), for claims rather than exploration."""
    return _step(p_values, lambda p, rank, count: p * (count - rank + 1), upwards=False)


def minimum_detectable_effect(
    n: int,
    discordance: float = 0.2,
    power: float = 0.8,
    alpha: float = 0.05,
    design_effect: float = 1.0,
) -> Detectable:
    """Smallest paired difference that `n` items show with `power` at two-sided `alpha`.

    (z_{1-alpha/2} + z_power) * sqrt(discordance * design_effect / n): the variance of the difference under the null,
    which is slightly on the safe side. `discordance` is the expected share of items where the systems disagree,
    `design_effect` the variance inflation by clustering (1 for independent items).

    Raises:
        DataError: no items, or a share, power or level outside (0, 1).
    """
    if n < 1 or design_effect <= 0 or not all(0 < value < 1 for value in (power, alpha)) or not 0 < discordance <= 1:
        raise DataError(
            f"n {n}, discordance {discordance}, power {power}, alpha {alpha}, design effect {design_effect}: "
            "all must be positive, the shares at most 1"
        )
    z = float(special.ndtri(1 - alpha / 2) + special.ndtri(power))
    difference = z * math.sqrt(discordance * design_effect / n)
    return Detectable(n, discordance, power, alpha, design_effect, difference, difference <= discordance)


def area_under_curve(positive: Sequence[float], negative: Sequence[float], level: float = 0.95) -> Area:
    """Chance that a positive scores above a negative (ties count half), with Newcombe's (2006) score-like interval.

    The interval solves |area - x| = z * sqrt(V(x)) with Hanley and McNeil's (1982) variance at x, so it does not
    collapse when the two sets are fully separated.

    Raises:
        DataError: an empty side, or a value that is not a number.
    """
    if not positive or not negative:
        raise DataError("an area under the curve needs positives and negatives")
    values = np.concatenate([np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)])
    if np.isnan(values).any():
        raise DataError("an area under the curve needs numbers, found NaN")
    num_positive, num_negative = len(positive), len(negative)
    ranks = _ranks(values)
    rank_sum = float(ranks[:num_positive].sum()) - num_positive * (num_positive + 1) / 2
    value = rank_sum / (num_positive * num_negative)
    z = _quantile(level)

    def excess(point: float) -> float:
        """Squared distance from the observed area less z squared variances at `point`."""
        return (value - point) ** 2 - z * z * _area_variance(point, num_positive, num_negative)

    low = 0.0 if value == 0.0 else _root(excess, 0.0, min(value, 1 - _TINY))
    high = 1.0 if value == 1.0 else _root(excess, 1.0, max(value, _TINY))
    return Area(value, Interval(low, high, level), num_positive, num_negative)


def item_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation of item scores (phi for pass/fail); None when one side never varies.

    High correlation is what makes the paired test stronger than the unpaired one.
    """
    _check_paired(first, second)
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.std() == 0.0 or b.std() == 0.0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise DataError(f"a confidence level lies between 0 and 1, got {level}")
    return float(special.ndtri(0.5 + level / 2))


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray[Any, Any] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _root(function: Callable[[float], float], positive: float, negative: float) -> float:
    """Where `function` changes sign, by halving; it is not negative at `positive` and not positive at `negative`."""
    for _ in range(80):
        middle = (positive + negative) / 2
        positive, negative = (middle, negative) if function(middle) > 0 else (positive, middle)
    return (positive + negative) / 2


def _area_variance(area: float, num_positive: int, num_negative: int) -> float:
    pairs = (num_positive + num_negative) / 2 - 1
    spread = 1 + pairs * ((1 - area) / (2 - area) + area / (1 + area))
    return area * (1 - area) * spread / (num_positive * num_negative)


def _step(p_values: Sequence[float], scale: Any, *, upwards: bool) -> list[float]:
    if any(not 0 <= p <= 1 for p in p_values):
        raise DataError(f"p-values lie between 0 and 1, got {next(p for p in p_values if not 0 <= p <= 1)}")
    count = len(p_values)
    order = sorted(range(count), key=lambda i: p_values[i])
    scaled = [scale(p_values[index], rank, count) for rank, index in enumerate(order, 1)]
    if upwards:
        steps = list(np.minimum.accumulate(scaled[::-1])[::-1]) if scaled else []
    else:
        steps = list(np.maximum.accumulate(scaled)) if scaled else []
    adjusted = [0.0] * count
    for index, value in zip(order, steps, strict=True):
        adjusted[index] = min(1.0, float(value))
    return adjusted


def _cluster_sums(values: np.ndarray[Any, Any], clusters: Sequence[Hashable] | None) -> tuple[Any, Any]:
    """Per cluster: sum of its values and number of them, in order of first appearance."""
    if clusters is None:
        return values, np.ones(len(values))
    if len(clusters) != len(values):
        raise DataError(f"{len(values)} values but {len(clusters)} cluster names")
    position: dict[Hashable, int] = {}
    index = np.array([position.setdefault(name, len(position)) for name in clusters])
    return np.bincount(index, weights=values), np.bincount(index).astype(float)


def _check_paired(first: Sequence[Any], second: Sequence[Any]) -> None:
    if len(first) != len(second) or len(first) == 0:
        raise DataError(f"paired lists must have the same length and at least one item: {len(first)}, {len(second)}")
