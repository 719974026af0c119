"""Gate rules: strict exactly as written, no value never passes, too few samples decide nothing."""

from __future__ import annotations

import pytest

from rung.pipeline.gates import Threshold, evaluate, figure_at


@pytest.mark.parametrize(
    ("comparison", "value", "passed"),
    [
        ("<", 0.0499, True),
        ("<", 0.05, False),
        ("<=", 0.05, True),
        (">", 0.05, False),
        (">=", 0.05, True),
        ("==", 0.05, True),
        ("==", 0.051, False),
    ],
)
def test_comparisons_are_strict_as_written(comparison: str, value: float, passed: bool) -> None:
    rule = Threshold("runaway", "rates.runaway", comparison, 0.05)  # type: ignore[arg-type]
    assert evaluate([rule], {"rates": {"runaway": value}}).passed is passed


def test_each_failure_has_a_reason_with_value_and_limit() -> None:
    rules = [Threshold("a", "a", "<", 0.05), Threshold("b", "b", ">=", 0.5), Threshold("c", "c", ">", 0)]
    verdict = evaluate(rules, {"a": 0.2, "b": 0.4, "c": 1})
    assert verdict.reasons == ("a: a is 0.2, it must be < 0.05", "b: b is 0.4, it must be >= 0.5")
    assert verdict.decided


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "0.1", {}])
def test_no_value_is_a_failure(value: object) -> None:
    verdict = evaluate([Threshold("a", "a", "<", 1)], {"a": value})
    assert not verdict.passed
    assert "has no value" in verdict.reasons[0]
    assert not evaluate([Threshold("a", "a.b", "<", 1)], {}).passed


def test_too_few_samples_decide_nothing() -> None:
    rule = Threshold("rate", "rate", "<", 0.5, min_samples=30, samples="n")
    few = evaluate([rule], {"rate": 0.1, "n": 29})
    assert (few.passed, few.decided) == (False, False)
    assert "29 samples, 30 are needed" in few.reasons[0]
    assert evaluate([rule], {"rate": 0.1, "n": 30}).passed
    assert not evaluate([rule], {"rate": 0.1}).decided
    mixed = evaluate([rule, Threshold("x", "x", ">", 1)], {"rate": 0.1, "n": 1, "x": 0})
    assert mixed.decided
    assert len(mixed.reasons) == 2


def test_rules_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match="no comparison"):
        Threshold("a", "a", "=<", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples"):
        Threshold("a", "a", "<", 1, min_samples=3)


def test_figures_are_found_by_path() -> None:
    assert figure_at({"a": {"b": 2}}, "a.b") == 2
    assert figure_at({"a": 1}, "a.b") is None
