"""Every statistic against scipy, a closed form, or a published figure."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rung.base.errors import DataError
from rung.evaluate import statistics


def test_wilson_matches_the_published_example_and_scipy():
    shown = statistics.wilson(243, 300)
    assert (round(shown.interval.low, 3), round(shown.interval.high, 3)) == (0.762, 0.850)
    for successes, n in [(0, 10), (10, 10), (1, 3), (57, 100)]:
        expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
        found = statistics.wilson(successes, n).interval
        assert found.low == pytest.approx(expected.low, abs=1e-12)
        assert found.high == pytest.approx(expected.high, abs=1e-12)


def test_wilson_of_nothing_says_nothing_and_impossible_counts_are_refused():
    assert statistics.wilson(0, 0).interval == statistics.Interval(0.0, 1.0)
    with pytest.raises(DataError, match="no proportion"):
        statistics.wilson(4, 3)


def test_mcnemar_figures_of_the_specification():
    many = statistics.mcnemar(2, 57)
    assert many.method == "chi-squared"
    assert round(many.statistic, 2) == 49.42
    assert many.p == pytest.approx(2.06e-12, rel=0.01)
    few = statistics.mcnemar(3, 1)
    assert few.method == "exact"
    assert few.statistic is None
    assert few.p == pytest.approx(0.625)


def test_mcnemar_border_lies_at_25_discordant_pairs():
    assert statistics.mcnemar(12, 12).method == "exact"
    assert statistics.mcnemar(13, 12).method == "chi-squared"
    assert statistics.mcnemar(13, 12).p == pytest.approx(1.0)
    assert statistics.mcnemar(0, 0).p == 1.0


def test_paired_lists_are_counted_the_right_way_round():
    test = statistics.mcnemar_of([True, True, False, False], [True, False, True, True])
    assert (test.only_first, test.only_second) == (1, 2)
    assert statistics.worse_than(9, 0) == pytest.approx(2**-9)
    assert statistics.worse_than(0, 9) == pytest.approx(1.0)


def test_cohens_h_of_the_specification_and_its_sign():
    assert round(statistics.cohens_h(0.81, 0.9933), 2) == 0.74
    assert statistics.cohens_h(0.9, 0.1) < 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_benjamini_hochberg_equals_scipy(p_values):
    expected = stats.false_discovery_control(p_values, method="bh")
    assert np.allclose(statistics.benjamini_hochberg(p_values), expected)


def test_adjusted_values_are_monotone_and_not_the_raw_ones():
    raw = [0.04, 0.001, 0.03, 0.2, 0.02]
    adjusted = statistics.benjamini_hochberg(raw)
    order = np.argsort(raw)
    assert all(np.diff(np.array(adjusted)[order]) >= 0)
    assert adjusted != raw
    assert adjusted[2] == pytest.approx(0.05)  # the step-up: lifted by rank 4 of 5 to 0.04 * 5 / 4
    assert statistics.benjamini_hochberg([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_its_definition(p_values):
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    running, expected = 0.0, [0.0] * len(p_values)
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        expected[index] = running
    assert np.allclose(statistics.holm(p_values), expected)


def test_p_values_outside_their_range_are_refused():
    with pytest.raises(DataError, match="between 0 and 1"):
        statistics.holm([0.2, 1.4])


def test_bootstrap_is_seeded_and_agrees_with_scipy():
    generator = np.random.default_rng(3)
    first = generator.random(120) < 0.3
    second = generator.random(120) < 0.6
    one = statistics.paired_bootstrap(first, second, num_resamples=4000, seed=7)
    assert one == statistics.paired_bootstrap(first, second, num_resamples=4000, seed=7)
    assert one != statistics.paired_bootstrap(first, second, num_resamples=4000, seed=8)
    differences = second.astype(float) - first.astype(float)
    oracle = stats.bootstrap((differences,), np.mean, n_resamples=4000, method="percentile", rng=1)
    assert one.interval.low == pytest.approx(oracle.confidence_interval.low, abs=0.02)
    assert one.interval.high == pytest.approx(oracle.confidence_interval.high, abs=0.02)


def test_clusters_widen_the_interval_when_items_of_a_family_move_together():
    families = [f for f in range(12) for _ in range(10)]
    second = [float(f % 2) for f in families]
    first = [0.0] * len(families)
    alone = statistics.paired_bootstrap(first, second, num_resamples=2000)
    grouped = statistics.paired_bootstrap(first, second, families, num_resamples=2000)
    assert grouped.num_clusters == 12
    assert grouped.standard_error > 2.5 * alone.standard_error


def test_clustered_mean_is_the_t_test_when_every_item_is_its_own_cluster():
    values = np.random.default_rng(0).normal(0.2, 1, 40)
    ours, theirs = statistics.clustered_mean(values), stats.ttest_1samp(values, 0)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.t == pytest.approx(theirs.statistic)
    assert ours.interval.low == pytest.approx(theirs.confidence_interval().low)


def test_clustered_t_keeps_its_level_where_the_naive_test_does_not():
    generator = np.random.default_rng(11)
    families = [f for f in range(15) for _ in range(12)]
    naive = clustered = 0
    for _ in range(300):
        shifts = generator.normal(0, 0.5, 15)
        values = [shifts[f] + generator.normal(0, 0.5) for f in families]
        naive += stats.ttest_1samp(values, 0).pvalue < 0.05
        clustered += statistics.clustered_mean(values, families).p < 0.05
    assert naive / 300 > 0.3
    assert clustered / 300 < 0.09


def test_clustered_mean_without_spread_or_clusters():
    assert statistics.clustered_mean([0.0, 0.0]).p == 1.0
    assert statistics.clustered_mean([1.0, 1.0, 1.0]).p == 0.0
    with pytest.raises(DataError, match="two clusters"):
        statistics.clustered_mean([1.0, 0.0], ["a", "a"])


@pytest.mark.parametrize(("n", "at_20", "at_10"), [(80, 14, 10), (164, 9.8, 6.9), (541, 5.4, 3.8), (1319, 3.4, 2.4)])
def test_detectable_difference_matches_the_known_table(n, at_20, at_10):
    assert 100 * statistics.minimum_detectable_effect(n, 0.2).difference == pytest.approx(at_20, abs=0.06)
    assert 100 * statistics.minimum_detectable_effect(n, 0.1).difference == pytest.approx(at_10, abs=0.1)


def test_detectable_difference_is_reached_with_the_stated_power():
    found = statistics.minimum_detectable_effect(300, 0.2)
    generator = np.random.default_rng(5)
    up = (0.2 + found.difference) / 2
    hits = 0
    for _ in range(600):
        only_second, only_first, _ = generator.multinomial(300, [up, 0.2 - up, 0.8])
        z = (only_second - only_first) / math.sqrt(only_second + only_first)
        hits += abs(z) > 1.96
    assert 0.75 < hits / 600 < 0.9


def test_a_design_that_cannot_show_anything_says_so():
    assert not statistics.minimum_detectable_effect(10, 0.2).attainable
    assert statistics.minimum_detectable_effect(300, 0.2).attainable
    assert statistics.minimum_detectable_effect(300, 0.2, design_effect=2).difference > 0.1
    with pytest.raises(DataError):
        statistics.minimum_detectable_effect(0)


def test_area_counts_ties_half_and_equals_mann_whitney():
    positive, negative = [3.0, 2.0, 2.0, 5.0], [1.0, 2.0, 0.0]
    expected = stats.mannwhitneyu(positive, negative).statistic / 12
    found = statistics.area_under_curve(positive, negative)
    assert found.value == pytest.approx(expected)
    assert found.interval.low < found.value < found.interval.high


def test_area_interval_is_honest_at_full_separation_and_covers_chance():
    full = statistics.area_under_curve([2.0] * 8, [1.0] * 8)
    assert full.value == full.interval.high == 1.0
    assert 0.5 < full.interval.low < 0.95
    none = statistics.area_under_curve([1.0] * 8, [2.0] * 8)
    assert none.interval.low == 0.0 < none.interval.high
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        area = statistics.area_under_curve(list(generator.normal(1, 1, 30)), list(generator.normal(0, 1, 30)))
        covered += area.interval.low <= stats.norm.cdf(1 / math.sqrt(2)) <= area.interval.high
    assert 0.91 < covered / 300 <= 1.0


def test_area_refuses_empty_sides_and_nan():
    with pytest.raises(DataError, match="positives and negatives"):
        statistics.area_under_curve([], [1.0])
    with pytest.raises(DataError, match="NaN"):
        statistics.area_under_curve([math.nan], [1.0])


def test_equivalence_needs_evidence_and_not_just_absence_of_it():
    same = [0.0] * 95 + [1.0, -1.0, 1.0, -1.0, 0.0]
    assert statistics.equivalence(same, 0.1).equivalent
    assert not statistics.equivalence(same[-8:], 0.1).equivalent
    better = statistics.equivalence([1.0, 0.0, 1.0, 1.0] * 20, 0.05)
    assert better.not_worse
    assert not better.equivalent


def test_equivalence_equals_two_t_tests():
    values = np.random.default_rng(1).normal(0.02, 0.3, 60)
    ours = statistics.equivalence(values, 0.1)
    assert ours.p_lower == pytest.approx(stats.ttest_1samp(values, -0.1, alternative="greater").pvalue)
    assert ours.p_upper == pytest.approx(stats.ttest_1samp(values, 0.1, alternative="less").pvalue)


def test_item_correlation():
    first, second = [1, 1, 0, 0, 1], [1, 0, 0, 0, 1]
    assert statistics.item_correlation(first, second) == pytest.approx(stats.pearsonr(first, second).statistic)
    assert statistics.item_correlation([1, 1], [0, 1]) is None
    with pytest.raises(DataError, match="same length"):
        statistics.item_correlation([1], [0, 1])
