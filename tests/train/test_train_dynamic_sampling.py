"""Which groups are trained on: filter, refill with a cap, length penalty, and the share of mixed groups to expect."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from rung.base.errors import DataError
from rung.train.dynamic_sampling import (
    RefillSettings,
    expected_mixed_share,
    overlong_penalty,
    predict_mixed,
    refill,
    why_discarded,
)

Group = tuple[float | None, ...]
RIGHT, WRONG, MIXED = (1.0, 1.0), (0.0, 0.0), (1.0, 0.0)


def source(*groups: Group):
    left = iter(groups)
    return lambda number: list(itertools.islice(left, number))


@pytest.mark.parametrize(
    ("accuracies", "reason"),
    [
        (RIGHT, "all right"), (WRONG, "all wrong"), ((0.5, 0.5), "alike"), (MIXED, None), ((0.5, 0.4), None),
        ((1.0, None, 1.0), "all right"), ((1.0, None), "abstained"), ((None, None), "abstained"), ((), "abstained"),
    ],
)  # fmt: skip
def test_why_a_group_is_discarded(accuracies: Group, reason: str | None) -> None:
    assert why_discarded(accuracies) == reason


def test_a_length_penalty_does_not_make_a_group_worth_training_on() -> None:
    """Filtered on the shaped reward every group looks mixed; on accuracy it does not."""
    shaped = [1.0 + overlong_penalty(tokens, limit=100, buffer=40) for tokens in (50, 90)]
    assert why_discarded(shaped) is None
    assert why_discarded((1.0, 1.0)) == "all right"


def test_refilling_counts_what_it_throws_away() -> None:
    draw = source(RIGHT, MIXED, WRONG, WRONG, MIXED, (1.0, None), MIXED, MIXED)
    found = refill(draw, lambda group: group, 3, RefillSettings())
    assert found.kept == (MIXED, MIXED, MIXED)
    assert (found.full, found.why, found.num_drawn) == (True, "full", 8)
    assert found.discarded == {"all right": 1, "all wrong": 2, "abstained": 1, "surplus": 1}
    assert found.useful_share == pytest.approx(4 / 8)


def test_a_hopeless_task_ends_at_a_cap() -> None:
    calls: list[int] = []

    def draw(number: int) -> list[Group]:
        """Never a mixed group."""
        calls.append(number)
        return [WRONG] * number

    found = refill(draw, lambda group: group, 4, RefillSettings(max_rounds=3, max_drawn_ratio=100))
    assert (found.why, found.full, found.num_rounds, found.kept) == ("rounds", False, 3, ())
    found = refill(draw, lambda group: group, 4, RefillSettings(max_rounds=100, max_drawn_ratio=5))
    assert (found.why, found.num_drawn, found.discarded) == ("drawn", 20, {"all wrong": 20})
    assert calls[:3] == [4, 4, 8], "with nothing useful yet each round doubles what was drawn"


def test_a_source_that_dries_up_ends_it() -> None:
    found = refill(source(MIXED, WRONG), lambda group: group, 2, RefillSettings())
    assert (found.why, found.kept, found.num_drawn) == ("source", (MIXED,), 2)


def test_a_round_asks_for_what_is_missing_at_the_rate_seen_so_far() -> None:
    asked: list[int] = []
    groups = source(*[MIXED, WRONG, WRONG, WRONG] * 10)

    def draw(number: int) -> list[Group]:
        """One group in four is mixed."""
        asked.append(number)
        return groups(number)

    assert refill(draw, lambda group: group, 4, RefillSettings()).full
    assert asked[:2] == [4, 12]


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0.0), (16384, 0.0), (18432, -0.5), (20480, -1.0), (30000, -1.0)])
def test_the_penalty_is_dapos(tokens: int, expected: float) -> None:
    assert overlong_penalty(tokens, 20480, 4096) == pytest.approx(expected)
    assert overlong_penalty(tokens, 20480, 4096, factor=2.0) == pytest.approx(2 * expected)


def test_a_buffer_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="buffer"):
        overlong_penalty(5, 10, 11)


@pytest.mark.parametrize(
    ("rate", "size", "expected"),
    [(0.02, 4, 0.078), (0.02, 8, 0.149), (0.02, 16, 0.276), (0.1, 4, 0.344), (0.1, 8, 0.570), (0.1, 16, 0.815)],
)
def test_the_chance_of_a_mixed_group(rate: float, size: int, expected: float) -> None:
    assert predict_mixed(rate, size) == pytest.approx(expected, abs=5e-4)
    assert predict_mixed(0.0, size) == predict_mixed(1.0, size) == 0.0


def test_the_pilots_estimate_is_unbiased_where_plugging_in_is_not() -> None:
    """Every outcome of a pilot with 8 answers, weighed by its chance, against the true share for groups of 4."""
    rate = 0.15
    ways = [1, 8, 28, 56, 70, 56, 28, 8, 1]
    chances = [n * rate**k * (1 - rate) ** (8 - k) for k, n in enumerate(ways)]
    estimates = [expected_mixed_share([(k, 8)], 4).share for k in range(9)]
    plugged = [predict_mixed(k / 8, 4) for k in range(9)]
    truth = predict_mixed(rate, 4)
    assert sum(c * e for c, e in zip(chances, estimates, strict=True)) == pytest.approx(truth, abs=1e-12)
    assert abs(sum(c * e for c, e in zip(chances, plugged, strict=True)) - truth) > 0.02


def test_the_interval_covers_the_truth() -> None:
    generator = random.Random(7)
    covered = 0
    for _ in range(1000):
        rates = [generator.choice([0.0, 0.05, 0.3, 0.9]) for _ in range(40)]
        pilot = [(sum(generator.random() < rate for _ in range(8)), 8) for rate in rates]
        truth = sum(predict_mixed(rate, 8) for rate in (0.0, 0.05, 0.3, 0.9)) / 4
        found = expected_mixed_share(pilot, 8)
        covered += found.low <= truth <= found.high
    assert covered / 1000 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1000)


def test_a_small_pilot_is_a_lower_bound_and_says_so() -> None:
    found = expected_mixed_share([(1, 4), (0, 4), (2, 4), (4, 4)], 16)
    assert not found.exact
    assert found.share == pytest.approx(0.5)
    assert expected_mixed_share([(1, 16)], 16).exact
    with pytest.raises(DataError, match="prompt 1"):
        expected_mixed_share([(1, 4), (5, 4)], 4)
    with pytest.raises(DataError, match="group size 1"):
        expected_mixed_share([(1, 4)], 1)
