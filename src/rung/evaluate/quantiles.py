"""Do quantiles cover what they say? Coverage by level, pinball loss, and offsets that set the levels right.

A quantile of level t should lie above a share t of the labels. Offsets are split-conformal, one per level (Romano et
al., 2019, arXiv 1905.03222): on labels that nothing was trained on, the t-quantile of label less predicted quantile is
added to the prediction, with the (n + 1) correction that makes the coverage hold in finite samples. After it values may
cross by a little; whoever adds offsets sorts (Chernozhukov et al., 2010, arXiv 0704.3649), which never makes it worse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rung.base.errors import DataError
from rung.evaluate.statistics import Proportion, wilson

__all__ = ["LevelCoverage", "conformal_offsets", "coverage", "pinball"]


@dataclass(frozen=True, slots=True)
class LevelCoverage:
    """A level, and the share of labels at or under its quantile."""

    level: float
    covered: Proportion

    @property
    def gap(self) -> float:
        """Share less level: positive when the quantile lies too high."""
        return self.covered.rate - self.level


def coverage(
    quantiles: Sequence[Sequence[float]], labels: Sequence[float], levels: Sequence[float]
) -> list[LevelCoverage]:
    """The coverage of every level, over answers.

    Raises:
        DataError: lists that do not fit each other.
    """
    _check(quantiles, labels, levels)
    found = []
    for place, level in enumerate(levels):
        covered = sum(label <= row[place] for row, label in zip(quantiles, labels, strict=True))
        found.append(LevelCoverage(level, wilson(covered, len(labels))))
    return found


def pinball(quantiles: Sequence[Sequence[float]], labels: Sequence[float], levels: Sequence[float]) -> float:
    """Mean pinball loss over answers and levels: u (t - [u < 0]) with u = label - quantile.

    Raises:
        DataError: lists that do not fit each other.
    """
    _check(quantiles, labels, levels)
    errors = np.asarray(labels, float)[:, None] - np.asarray(quantiles, float)
    return float(np.mean(errors * (np.asarray(levels, float) - (errors < 0))))


def conformal_offsets(
    quantiles: Sequence[Sequence[float]], labels: Sequence[float], levels: Sequence[float]
) -> tuple[float, ...]:
    """What to add to each level's quantile, from labels kept for this; zeros without any."""
    if not labels:
        return (0.0,) * len(levels)
    _check(quantiles, labels, levels)
    residuals = np.sort(np.asarray(labels, float)[:, None] - np.asarray(quantiles, float), axis=0)
    number = len(labels)
    places = [min(max(math.ceil(level * (number + 1)), 1), number) - 1 for level in levels]
    return tuple(float(residuals[place, column]) for column, place in enumerate(places))


def _check(quantiles: Sequence[Sequence[float]], labels: Sequence[float], levels: Sequence[float]) -> None:
    if len(quantiles) != len(labels) or not labels or any(len(row) != len(levels) for row in quantiles):
        raise DataError(f"{len(quantiles)} rows of quantiles, {len(labels)} labels and {len(levels)} levels do not fit")
