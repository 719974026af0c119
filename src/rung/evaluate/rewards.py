"""How good a reward is at telling answers apart: pairs won, order kept, error against the mean, and what length does.

Pairs of one prompt fall together, so intervals of differences are bootstrapped over prompts. Length bias is looked at
where it shows: how often a reward is right when the better answer is the longer one and when it is the shorter one, and
how its differences go with differences in length.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from rung.base.errors import DataError
from rung.evaluate.statistics import Lift, Proportion, item_correlation, paired_bootstrap, wilson

__all__ = [
    "AgainstMean",
    "LengthBias",
    "against_mean",
    "disjoint_pairs",
    "length_bias",
    "pair_accuracy",
    "spearman",
    "won",
]


@dataclass(frozen=True, slots=True)
class LengthBias:
    """Correlation of reward gap with length gap (better less worse; None where one never varies), and accuracy by
    which answer is the longer. A reward without the bias is right as often on either side."""

    correlation: float | None
    longer_better: Proportion
    shorter_better: Proportion


@dataclass(frozen=True, slots=True)
class AgainstMean:
    """Mean squared error, that of always saying the training mean, and how much less it is (positive: better)."""

    error: float
    error_of_mean: float
    gain: Lift


def won(gaps: Sequence[float]) -> list[bool]:
    """Whether the better answer of each pair has the higher reward, by the gaps between the two.

    Equal rewards are lost and won in turn, so that a constant reward wins half of the pairs and not none.
    """
    turns = itertools.cycle((False, True))
    return [next(turns) if gap == 0 else gap > 0 for gap in gaps]


def pair_accuracy(gaps: Sequence[float]) -> Proportion:
    """Share of pairs that are won."""
    return wilson(sum(won(gaps)), len(gaps))


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Correlation of ranks, equal values sharing the mean of theirs; None when one side never varies."""
    return item_correlation(_ranks(first), _ranks(second))


def length_bias(gaps: Sequence[float], length_gaps: Sequence[float]) -> LengthBias:
    """What length does to a reward, over pairs: gaps of reward and of length, better less worse.

    Raises:
        DataError: lists of different length, or empty ones.
    """
    sides = list(zip(gaps, length_gaps, strict=True)) if len(gaps) == len(length_gaps) else []
    if not sides:
        raise DataError(f"{len(gaps)} gaps of reward and {len(length_gaps)} of length")
    longer = [gap for gap, length in sides if length > 0]
    shorter = [gap for gap, length in sides if length < 0]
    # both orders of a pair, so that the drawn one adds nothing: correlation about 0
    squares = math.fsum(g * g for g in gaps) * math.fsum(one * one for one in length_gaps)
    product = math.fsum(gap * length for gap, length in sides)
    return LengthBias(product / math.sqrt(squares) if squares else None, pair_accuracy(longer), pair_accuracy(shorter))


def against_mean(
    predictions: Sequence[float],
    labels: Sequence[float],
    mean: float,
    groups: Sequence[Hashable],
    seed: int = 0,
) -> AgainstMean:
    """Squared errors of predictions against those of the training labels' mean, with the interval of the difference.

    Raises:
        DataError: lists of different length, or empty ones.
    """
    own = [(p - y) ** 2 for p, y in zip(predictions, labels, strict=True)]
    others = [(mean - y) ** 2 for y in labels]
    lift = paired_bootstrap(own, others, groups, num_resamples=2000, seed=seed)
    return AgainstMean(math.fsum(own) / len(own), math.fsum(others) / len(others), lift)


def disjoint_pairs(labels: Sequence[float]) -> list[tuple[int, int]]:
    """(better, worse) numbers of answers with different labels, each answer in at most one pair: neighbours in order.

    Pairs that share no answer are independent, which the interval of an accuracy needs; callers shuffle beforehand.
    """
    found: list[tuple[int, int]] = []
    waiting: list[int] = []
    for number, label in enumerate(labels):
        other = next((place for place in waiting if labels[place] != label), None)
        if other is None:
            waiting.append(number)
            continue
        waiting.remove(other)
        found.append((number, other) if label > labels[other] else (other, number))
    return found


def _ranks(values: Sequence[float]) -> list[float]:
    _, place, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    return list((np.cumsum(counts) - (counts - 1) / 2)[place])
