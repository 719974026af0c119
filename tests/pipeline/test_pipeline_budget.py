"""Budget, estimates and the ledger's sums."""

from __future__ import annotations

from pathlib import Path

import pytest

from rung.base.errors import BudgetSpent, DataError, Interrupted
from rung.pipeline.budget import Budget, BudgetSettings, Spend
from rung.pipeline.estimate import at_once, best_of_n, compare, priced, project, shard_cost
from rung.pipeline.ledger import Entry, Ledger
from rung.pipeline.stage import Estimate


class Clock:
    """Seconds that move by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_announced_pieces_stop_before_the_cap_and_may_reach_it() -> None:
    budget = Budget(BudgetSettings(tokens=100), clock=Clock())
    for _ in range(4):
        budget.reserve(tokens=25)
        budget.spend(tokens=25)
    assert budget.total.tokens == 100
    with pytest.raises(BudgetSpent, match="cap of 100 tokens"):
        budget.reserve(tokens=1)


def test_pieces_that_were_not_announced_are_expected_to_repeat() -> None:
    budget = Budget(BudgetSettings(tokens=100), clock=Clock())
    budget.spend(tokens=40)
    with pytest.raises(BudgetSpent):
        budget.spend(tokens=40)
    assert budget.total.tokens == 80


def test_the_last_piece_is_paid_for_and_not_refused() -> None:
    budget = Budget(BudgetSettings(tokens=100), stop=lambda: True, clock=Clock())
    budget.finish(tokens=60)
    assert budget.total.tokens == 60
    with pytest.raises(Interrupted):
        budget.spend(tokens=10)


def test_time_is_read_from_the_clock_and_priced() -> None:
    clock = Clock()
    budget = Budget(BudgetSettings(money=1.0, price_per_hour=3.0), clock=clock)
    for _ in range(4):
        budget.reserve()
        clock.now += 250.0
        budget.spend()
    with pytest.raises(BudgetSpent, match="money"):
        budget.reserve()
    assert budget.total.money == pytest.approx(4 * 250 / 3600 * 3)
    assert budget.total.money <= 1.0


def test_looking_between_pieces_does_not_shorten_the_piece() -> None:
    clock = Clock()
    budget = Budget(BudgetSettings(seconds=100.0), clock=clock)
    for _ in range(6):
        clock.now += 10.0
        budget.poll()
    with pytest.raises(BudgetSpent, match="120 with it"):
        budget.spend()


def test_earlier_attempts_count() -> None:
    budget = Budget(BudgetSettings(tokens=100), before=Spend(tokens=90), clock=Clock())
    with pytest.raises(BudgetSpent):
        budget.reserve(tokens=11)
    budget.reserve(tokens=10)
    assert budget.stage.tokens == 0


def test_a_stop_request_is_heard_at_every_safe_point() -> None:
    for call in ("poll", "reserve", "spend"):
        with pytest.raises(Interrupted):
            getattr(Budget(stop=lambda: True, clock=Clock()), call)()


def test_every_debit_is_handed_on_until_settled() -> None:
    seen: list[Spend] = []
    clock = Clock()
    budget = Budget(clock=clock, saved=seen.append)
    budget.spend(tokens=5)
    clock.now = 2.0
    assert budget.settle() == Spend(2.0, 5.0, 0.0, 2.0)
    assert seen[-1].tokens == 5


def test_150_minutes_at_3_an_hour_and_two_reviews_are_7_90_of_300(tmp_path: Path) -> None:
    clock = Clock()
    budget = Budget(BudgetSettings(price_per_hour=3.0), clock=clock)
    clock.now = 150 * 60.0
    budget.spend(money=0.20)
    budget.spend(money=0.20)
    ledger = Ledger(tmp_path)
    spend = budget.settle()
    ledger.append(
        Entry(event="ended", stage="a", spend={"seconds": spend.seconds, "tokens": 0.0, "money": spend.money})
    )
    totals = ledger.totals(money_cap=300.0)
    assert f"{totals.total.money:.2f}" == "7.90"
    assert totals.share == pytest.approx(0.0263, abs=1e-4)
    assert totals.by_stage["a"].seconds == 9000.0


def test_six_and_a_half_hours_at_3_are_19_50() -> None:
    assert priced(Estimate(seconds=6.5 * 3600), 3.0).money == pytest.approx(19.5)


def test_ranges_add_up() -> None:
    hours = [(6, 7), (2, 3), (0.5, 0.5)]
    rows = [priced(Estimate(seconds=low * 3600, seconds_high=high * 3600), 3.0) for low, high in hours]
    total = project(rows, BudgetSettings(price_per_hour=3.0, money=300.0))
    assert (total.seconds / 3600, total.seconds_high / 3600) == (8.5, 10.5)
    assert (total.money, total.money_high) == pytest.approx((25.5, 31.5))
    assert total.share == pytest.approx(0.085)


def test_estimate_against_actual_in_percent() -> None:
    rows = compare(Estimate(seconds=10, tokens=100), Spend(seconds=15, tokens=50, money=1))
    assert rows["seconds_error_percent"] == pytest.approx(50)
    assert rows["tokens_error_percent"] == pytest.approx(-50)
    assert "money_error_percent" not in rows


def test_the_ledger_survives_a_torn_last_line_and_names_a_broken_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(Entry(event="started", stage="a", attempt=1))
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"event": "en')
    assert len(ledger.entries()) == 1
    ledger.append(Entry(event="ended", stage="a", attempt=1))
    assert [entry.event for entry in ledger.entries()] == ["started", "ended"]
    assert ledger.next_attempt() == 2
    (tmp_path / "ledger.jsonl").write_text('{"event": 3}\n')
    with pytest.raises(DataError, match="not a ledger line"):
        ledger.entries()


def test_a_step_that_would_pass_the_cap_is_not_taken() -> None:
    budget = Budget(BudgetSettings(tokens=10), clock=Clock())
    budget.poll(tokens=4)
    with pytest.raises(BudgetSpent):
        budget.poll(tokens=4)
    assert budget.total.tokens == 8


def test_tokens_of_steps_are_part_of_their_piece() -> None:
    budget = Budget(clock=Clock())
    for _ in range(3):
        budget.poll(tokens=4)
    budget.spend(tokens=13)
    budget.spend(tokens=5)
    assert budget.total.tokens == 18


def test_time_elsewhere_is_only_the_clocks() -> None:
    clock = Clock()
    budget = Budget(BudgetSettings(price_per_hour=3600.0), clock=clock)
    with budget.elsewhere():
        clock.now = 10.0
        budget.debit(Spend(seconds=16.0, money=16.0))
    clock.now = 11.0
    assert budget.settle() == Spend(17.0, 0.0, 17.0, 11.0)


def test_ten_shards_of_one_and_a_half_hours() -> None:
    whole = Estimate(seconds=10 * 1.5 * 3600, num_shards=10)
    assert [at_once(whole, workers).wall_seconds / 3600 for workers in (1, 5, 4)] == [15, 3, 4.5]


def test_only_the_share_of_responses_is_multiplied() -> None:
    three = best_of_n(Estimate(seconds=6.5 * 3600, seconds_high=7 * 3600, tokens=100), 0.42, 3)
    assert three.seconds / 3600 == pytest.approx(11.96)
    assert (three.seconds_high / 3600, three.tokens) == (pytest.approx(12.88), pytest.approx(184))
    assert shard_cost(Estimate(seconds=7200, tokens=10, num_shards=2), 3.0) == Spend(3600, 5, 3)
