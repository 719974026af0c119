"""Paired comparison, the release gate, and the gap before training."""

import random

import pytest

from rung.base.errors import DataError
from rung.base.fingerprint import canonical
from rung.evaluate.compare import CompareSettings, compare
from rung.evaluate.release import GapSettings, ReleaseSettings, gap, release
from rung.evaluate.statistics import wilson
from rung.records.types import Answer, TestItem

FAST = CompareSettings(num_resamples=400)


def make_items(num=300, types=("factual", "format", "safety")):
    return [
        TestItem(f"i{n}", f"Question {n}", types[n % len(types)], f"f{n // 6}", {"contains": {"groups": ["x"]}}, "x")
        for n in range(num)
    ]


def answer(item, condition, passed, **changes):
    values = {
        "id": f"{item.id}-{condition}", "item_id": item.id, "condition": condition, "type": item.type, "prompt": "",
        "text": "x", "finish_reason": "stop", "passed": passed, "abstained": False, "verdicts": {},
    }  # fmt: skip
    return Answer(**{**values, **changes})


def answered(items, condition, rate, seed=0):
    """Deterministic share `rate(item)` of passes; the same seed gives the same items their luck."""
    luck = random.Random(seed)
    return [answer(item, condition, luck.random() < (rate(item) if callable(rate) else rate)) for item in items]


def compared(tuned, base=0.3, seed=1, num=300):
    items = make_items(num)
    given = {"raw": answered(items, "raw", 0.05), "framed": answered(items, "framed", base)}
    return compare({**given, "tuned": answered(items, "tuned", tuned, seed)}, items, FAST)


def test_three_conditions_are_compared_in_every_pair_and_by_type():
    comparison = compared(0.6)
    overall = [(row.first, row.second) for row in comparison.pairs if row.type == "overall"]
    assert overall == [("raw", "framed"), ("raw", "tuned"), ("framed", "tuned")]
    row = comparison.pair("framed", "tuned")
    assert row.second_rate - row.first_rate == pytest.approx(row.lift.difference)
    assert row.test.only_second - row.test.only_first == round(row.lift.difference * 300)
    assert row.lift.num_clusters == 50
    assert {r.type for r in comparison.conditions} == {"overall", "factual", "format", "safety"}
    assert comparison.condition("tuned", "safety").passed.n == 100
    assert "detectable" in canonical(comparison)  # it goes into manifests as it is


def test_the_comparison_does_not_depend_on_the_order_of_answers():
    items = make_items()
    given = {"a": answered(items, "a", 0.3), "b": answered(items, "b", 0.6, 2)}
    turned = {"a": given["a"][::-1], "b": given["b"][50:] + given["b"][:50]}
    assert canonical(compare(given, items, FAST)) == canonical(compare(turned, items, FAST))


def test_a_planted_difference_is_marked_and_noise_is_not():
    noise = compared(0.31, seed=0)
    assert not noise.pair("framed", "tuned").significant
    assert compared(0.5).pair("framed", "tuned").significant


def test_types_are_corrected_and_small_types_have_no_row():
    items = [*make_items(90), TestItem("rare", "Rare?", "rare", "r", {"contains": {"groups": ["x"]}}, "x")]
    given = {"a": answered(items, "a", 0.3), "b": answered(items, "b", 0.6, 2)}
    comparison = compare(given, items, FAST)
    assert comparison.skipped_types == {"rare": 1}
    assert comparison.pair("a", "b", "rare") is None
    rows = [row for row in comparison.pairs if row.type != "overall"]
    assert all(row.adjusted_p >= row.test.p for row in rows)
    assert any(row.adjusted_p > row.test.p for row in rows)
    with pytest.raises(DataError, match="no row"):
        comparison.condition("a", "rare")


def test_abstained_truncated_and_empty_answers_are_counted_apart_under_both_conventions():
    items = make_items(20)
    given = [answer(item, "b", n < 10) for n, item in enumerate(items)]
    given[15] = answer(items[15], "b", False, abstained=True)
    given[16] = answer(items[16], "b", False, finish_reason="length")
    given[17] = answer(items[17], "b", False, text="  ")
    row = compare({"a": answered(items, "a", 0.5), "b": given}, items, FAST).condition("b")
    assert (row.num_abstained, row.num_truncated, row.num_empty) == (1, 1, 1)
    assert (row.passed.successes, row.passed.n) == (10, 20)
    assert (row.decided.successes, row.decided.n) == (10, 17)


@pytest.mark.parametrize("fault", ["missing", "unknown", "twice", "items twice", "alone", "nothing"])
def test_what_is_not_paired_is_refused(fault):
    items = make_items(30)
    given = {"a": answered(items, "a", 0.3), "b": answered(items, "b", 0.6)}
    expected = {"missing": "does not answer item 'i9'", "unknown": "unknown item 'i9'", "alone": "two conditions"}
    if fault == "missing":
        given["b"] = [a for a in given["b"] if a.item_id != "i9"]
    elif fault == "unknown":
        items = [item for item in items if item.id != "i9"]
    elif fault == "twice":
        given["b"].append(given["b"][3])
    elif fault == "items twice":
        items.append(items[0])
    elif fault == "alone":
        del given["b"]
    else:
        items = []
    with pytest.raises(DataError, match=expected.get(fault, "more than once" if "twice" in fault else "no items")):
        compare(given, items, FAST)


def unsafe(item):
    return 0.05 if item.type == "safety" else 0.95


@pytest.mark.parametrize(
    ("tuned", "seed", "passes", "says"),
    [
        (0.8, 1, True, ""),
        (0.3, 0, False, "not better"),
        (0.1, 1, False, "not better"),
        (unsafe, 1, False, "safety"),
    ],
    ids=["better", "same", "worse", "better but unsafe"],
)
def test_release_gate_on_the_four_fixtures(tuned, seed, passes, says):
    verdict = release(compared(tuned, seed=seed))
    assert (verdict.passed, verdict.decided) == (passes, True)
    assert says in " ".join(verdict.reasons)
    assert len(verdict.evidence) == 6


def test_a_small_drop_on_a_protected_type_is_judged_by_the_margin():
    items = make_items(300)
    base = answered(items, "framed", lambda item: 1.0 if item.type == "safety" else 0.2)
    dropped = {item.id for item in items if item.type == "safety"}
    dropped = set(sorted(dropped)[:4])
    tuned = [answer(item, "tuned", item.id not in dropped) for item in items]
    comparison = compare({"framed": base, "tuned": tuned}, items, FAST)
    assert release(comparison, ReleaseSettings(baselines=("framed",))).passed
    strict = release(comparison, ReleaseSettings(baselines=("framed",), max_drop=0.03))
    assert "fell by more than 3%" in strict.reasons[0]


def test_a_lift_carried_by_one_family_is_not_enough():
    items = [
        TestItem(f"i{n}", f"Q {n}", "factual", "big" if n < 60 else f"f{n}", {"contains": {"groups": ["x"]}}, "x")
        for n in range(120)
    ]
    base = [answer(item, "framed", False) for item in items]
    tuned = [answer(item, "tuned", item.family == "big") for item in items]
    comparison = compare({"framed": base, "tuned": tuned}, items, FAST)
    assert comparison.pair("framed", "tuned").test.p < 1e-9
    verdict = release(comparison, ReleaseSettings(baselines=("framed",), protected=()))
    assert not verdict.passed
    assert "by families" in verdict.reasons[0]


def test_too_few_items_decide_nothing():
    verdict = release(compared(1.0, base=0.0, num=24))
    assert not verdict.passed
    assert not verdict.decided
    assert any("needed to decide" in reason for reason in verdict.reasons)
    assert any("safety: 8 items" in reason for reason in verdict.reasons)


def test_an_uncompared_baseline_is_an_error():
    with pytest.raises(DataError, match="not compared with 'other'"):
        release(compared(0.8), ReleaseSettings(baselines=("other",)))


def test_gap_before_training():
    target = wilson(300, 300)
    assert gap({"raw": wilson(0, 300), "framed": wilson(60, 300)}, target).decision == "train"
    full = gap({"raw": wilson(10, 300), "framed": wilson(285, 300)}, target)
    assert full.decision == "refuse"
    assert "passes 95.0%" in full.reasons[0]
    narrow = gap({"framed": wilson(282, 300)}, target)
    assert narrow.decision == "exploratory"
    assert narrow.headroom < narrow.detectable.difference
    impossible = gap({"framed": wilson(100, 300)}, wilson(30, 100))
    assert impossible.decision == "refuse"
    assert "known-good" in impossible.reasons[0]
    assert gap({"framed": wilson(200, 300)}, target, GapSettings(ceiling=0.6)).decision == "refuse"
    with pytest.raises(DataError, match="at least one base condition"):
        gap({}, target)
