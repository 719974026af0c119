"""pass@k equals its definition by enumeration, and its interval covers."""

import itertools
import random

import pytest

from rung.base.errors import DataError
from rung.evaluate.pass_at_k import estimate_pass_at_k, pass_at_k


@pytest.mark.parametrize(("samples", "passed", "k"), [(5, 0, 2), (5, 5, 3), (5, 2, 1), (6, 2, 3), (7, 1, 7), (4, 3, 2)])
def test_it_is_the_share_of_all_choices_of_k_that_hold_a_pass(samples, passed, k):
    verdicts = [True] * passed + [False] * (samples - passed)
    choices = list(itertools.combinations(verdicts, k))
    assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_it_is_unbiased_where_the_plug_in_estimate_is_not():
    draw, rate, k, samples = random.Random(3), 0.3, 3, 5
    counts = [(samples, sum(draw.random() < rate for _ in range(samples))) for _ in range(4000)]
    truth = 1 - (1 - rate) ** k
    found = estimate_pass_at_k(counts, k, num_resamples=300)
    assert found.interval.low < truth < found.interval.high
    plug_in = sum(1 - (1 - c / n) ** k for n, c in counts) / len(counts)
    assert plug_in < found.interval.low


def test_the_interval_covers_and_families_widen_it():
    covered = 0
    for trial in range(60):
        draw = random.Random(trial)
        counts = [(4, sum(draw.random() < 0.4 for _ in range(4))) for _ in range(60)]
        found = estimate_pass_at_k(counts, 1, num_resamples=400, seed=trial)
        covered += found.interval.low <= 0.4 <= found.interval.high
    assert covered >= 51
    counts = [(2, 2 * (i // 10 % 2)) for i in range(100)]
    alone = estimate_pass_at_k(counts, 1, num_resamples=400)
    together = estimate_pass_at_k(counts, 1, [i // 10 for i in range(100)], num_resamples=400)
    assert together.interval.high - together.interval.low > 1.5 * (alone.interval.high - alone.interval.low)


def test_all_or_nothing_keeps_an_interval():
    nothing = estimate_pass_at_k([(1, 0)] * 20, 1)
    assert (nothing.value, nothing.interval.low, nothing.method) == (0.0, 0.0, "Wilson")
    assert 0.1 < nothing.interval.high < 0.3
    assert estimate_pass_at_k([(3, 3)] * 20, 2).interval.low > 0.8


@pytest.mark.parametrize(("samples", "passed", "k"), [(2, 1, 3), (2, 3, 1), (2, 1, 0), (2, -1, 1)])
def test_counts_that_allow_no_estimate_are_refused(samples, passed, k):
    with pytest.raises(DataError, match="cannot be told"):
        pass_at_k(samples, passed, k)
