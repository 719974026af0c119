"""Intervals and exact tests of counts, against scipy."""

from __future__ import annotations

import pytest
from scipy import stats

from rung.base.proportions import fair_coin_tail, sign_test, wilson_interval


@pytest.mark.parametrize(("successes", "number"), [(0, 5), (3, 9), (243, 300), (40, 40), (1, 1)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_wilson(successes: int, number: int, level: float) -> None:
    expected = stats.binomtest(successes, number).proportion_ci(level, method="wilson")
    assert wilson_interval(successes, number, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_counted_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert sign_test(0, 0) == 1.0


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 3), (1, 9), (58, 11), (0, 24), (700, 300)])
def test_sign_test(first: int, second: int) -> None:
    two_sided = stats.binomtest(first, first + second, 0.5).pvalue
    assert sign_test(first, second) == pytest.approx(two_sided, rel=1e-9)
    assert sign_test(second, first) == sign_test(first, second)
    greater = stats.binomtest(first, first + second, 0.5, "greater").pvalue
    assert fair_coin_tail(first, first + second) == pytest.approx(greater, rel=1e-9)


@pytest.mark.parametrize(("b", "c", "p"), [(5, 0, 0.0625), (3, 3, 1.0), (1, 9, 22 / 1024)])
def test_sign_test_by_hand(b: int, c: int, p: float) -> None:
    assert sign_test(b, c) == p
