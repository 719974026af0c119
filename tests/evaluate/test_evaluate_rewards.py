"""What measures reward models: reliability, Brier, calibration error, ranks, length, coverage. Items 297, 299, 301."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats

from rung.base.errors import DataError
from rung.evaluate.probabilities import fit_temperature, reliability, sigmoid
from rung.evaluate.quantiles import conformal_offsets, coverage, pinball
from rung.evaluate.rewards import against_mean, disjoint_pairs, length_bias, pair_accuracy, spearman


def test_reliability_by_hand() -> None:
    found = reliability([0.9, 0.9, 0.6, 0.1], [True, False, True, False], num_bins=10)
    assert found.brier == pytest.approx((0.01 + 0.81 + 0.16 + 0.01) / 4)
    assert found.calibration_error == pytest.approx(0.4 * 2 / 4 + 0.4 / 4 + 0.1 / 4)
    assert [(one.low, one.came_true.n) for one in found.bins] == [(0.1, 1), (0.6, 1), (0.9, 2)]
    assert found.log_loss == pytest.approx(-(2 * math.log(0.9) + math.log(0.1) + math.log(0.6)) / 4)
    assert reliability([1.0, 0.0], [True, False]).calibration_error == 0.0
    with pytest.raises(DataError, match="0 to 1"):
        reliability([1.2], [True])
    with pytest.raises(DataError, match="forecasts"):
        reliability([], [])


def test_a_temperature_undoes_overconfidence() -> None:
    drawn = np.random.default_rng(0)
    logits = drawn.normal(0, 2, 20_000)
    outcomes = drawn.random(20_000) < sigmoid(logits)
    assert fit_temperature(list(logits * 3), list(outcomes)) == pytest.approx(3.0, rel=0.05)
    before = reliability(list(sigmoid(logits * 3)), list(outcomes)).calibration_error
    after = reliability(list(sigmoid(logits)), list(outcomes)).calibration_error
    assert after < 0.02 < before
    assert fit_temperature([], []) == 1.0
    assert sigmoid(np.array([-1e6, 0.0, 1e6])).tolist() == [0.0, 0.5, 1.0]


def test_spearman_equals_the_reference_with_ties() -> None:
    drawn = random.Random(1)
    first = [drawn.randrange(6) for _ in range(50)]
    second = [value + drawn.randrange(4) for value in first]
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert spearman([1.0, 1.0], [0.0, 1.0]) is None


def test_pairs_that_tie_are_half_won() -> None:
    assert pair_accuracy([1.0, -1.0, 0.0, 0.0]).rate == 0.5
    assert pair_accuracy([0.0] * 10).rate == 0.5
    assert pair_accuracy([2.0] * 10).interval.low > 0.5


def test_disjoint_pairs_use_each_answer_once_and_say_which_is_better() -> None:
    labels = [1.0, 1.0, 0.0, 0.5, 0.5, 0.5]
    found = disjoint_pairs(labels)
    used = [number for pair in found for number in pair]
    assert len(used) == len(set(used))
    assert len(found) == 2
    assert all(labels[better] > labels[worse] for better, worse in found)


def test_length_bias_shows_where_it_is_and_where_it_is_not() -> None:
    lengths = [5.0, 3.0, -4.0, -6.0] * 20
    biased = length_bias(lengths, lengths)
    assert (biased.longer_better.rate, biased.shorter_better.rate) == (1.0, 0.0)
    assert biased.correlation == pytest.approx(1.0)
    fair = length_bias([1.0] * 80, lengths)
    assert fair.longer_better.rate == fair.shorter_better.rate == 1.0
    assert abs(fair.correlation or 0.0) < 0.2
    assert length_bias([1.0], [0.0]).correlation is None
    with pytest.raises(DataError):
        length_bias([], [])


def test_an_error_is_held_against_that_of_the_mean() -> None:
    labels = [0.0, 1.0] * 20
    good = against_mean([0.1, 0.9] * 20, labels, 0.5, range(40))
    assert good.error == pytest.approx(0.01)
    assert good.error_of_mean == pytest.approx(0.25)
    assert good.gain.interval.low > 0
    assert against_mean([0.9, 0.1] * 20, labels, 0.5, range(40)).gain.interval.high < 0


def test_coverage_and_pinball_by_hand() -> None:
    rows = [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    found = coverage(rows, [-1.0, 0.5, 0.5, 2.0], [0.25, 0.75])
    assert [one.covered.rate for one in found] == [0.25, 0.75]
    assert [one.gap for one in found] == [0.0, 0.0]
    # u = 0.5 at both levels' quantile 0 and -0.5 at quantile 1
    assert pinball([[0.0, 1.0]], [0.5], [0.25, 0.75]) == pytest.approx((0.5 * 0.25 + 0.5 * 0.25) / 2)
    with pytest.raises(DataError):
        coverage([[1.0]], [1.0], [0.25, 0.75])


def test_conformal_offsets_restore_coverage_on_fresh_labels() -> None:
    """Quantiles that are wrong in place and width; offsets from 500 labels, looked at on 4000 others."""
    drawn = np.random.default_rng(3)
    levels = [0.1, 0.5, 0.9]
    wrong = [0.4, 0.5, 0.6]

    def made(number: int) -> tuple[list[list[float]], list[float]]:
        means = drawn.normal(0, 1, number)
        return [[mean + off for off in wrong] for mean in means], list(means + drawn.exponential(1.0, number))

    offsets = conformal_offsets(*made(500), levels)
    rows, labels = made(4000)
    before = [one.gap for one in coverage(rows, labels, levels)]
    after = [
        one.gap for one in coverage([[v + o for v, o in zip(r, offsets, strict=True)] for r in rows], labels, levels)
    ]
    assert max(map(abs, before)) > 0.2
    assert max(map(abs, after)) < 0.05
    assert conformal_offsets([], [], levels) == (0.0, 0.0, 0.0)
