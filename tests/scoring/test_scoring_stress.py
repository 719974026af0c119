"""The stress test: an honest verifier passes, a hackable one is refused by name with what fooled it."""

import json

import pytest

from rung.base.errors import GateFailed
from rung.records.contracts import Item, Score
from rung.scoring.checks import Checks
from rung.scoring.stress import StressSettings, require_strong, stress
from rung.scoring.stress_probes import attacks, near_misses, right_replies
from rung.scoring.tasks.arithmetic import Arithmetic

ITEMS = Arithmetic(Arithmetic.Settings(difficulty=2)).make(0, 20)
QUICK = StressSettings(junk_items=1)


class Judged:
    """A scorer made of one function of item and text."""

    def __init__(self, judge):
        self.judge = judge

    def score(self, items, traces):
        return [self.judge(item, trace.text) for item, trace in zip(items, traces, strict=True)]


def by(rule):
    return Judged(lambda item, text: Score(float(rule(item.reference["answer"], text))))


def test_the_real_verifier_is_strong_and_the_report_fits_a_manifest():
    report = stress("final_answer", Checks(), ITEMS, QUICK)
    assert report.strong, (report.reasons, report.misjudged)
    require_strong(report)
    stored = json.loads(json.dumps(report.as_json()))
    assert stored["verdict"] == "strong"
    assert stored["recall"]["accepted"] == stored["num_right"] >= 20 * 6
    assert stored["attacks"]["accepted"] == 0
    assert stored["kinds"]["junk"]["number"] == 4
    assert len(json.dumps(stored)) < 20_000


@pytest.mark.parametrize(
    ("name", "rule", "fooled_by"),
    [
        ("contains", lambda answer, text: answer in text, "all_options"),
        ("believes_verdicts", lambda answer, text: answer == text.strip() or "score: 1" in text, "injected_verdict"),
        ("long_is_good", lambda answer, text: len(text) > 1000 or answer in text[:3], "junk"),
        ("anything_but_wrong", lambda answer, text: not text.strip(), "empty"),
        ("question_is_enough", lambda answer, text: "Answer with the number only" in text, "copied_prompt"),
    ],
)
def test_a_hackable_verifier_is_refused_by_name_with_the_attack(name, rule, fooled_by):
    report = stress(name, by(rule), ITEMS, QUICK)
    assert report.verdict == "weak"
    assert any(f"attacks of kind {fooled_by}" in reason for reason in report.reasons)
    with pytest.raises(GateFailed, match=f"verifier '{name}' is weak") as refused:
        require_strong(report)
    assert f"accepts {fooled_by}" in refused.value.message


def test_too_loose_and_too_strict_are_both_weak():
    def close(item, text):
        number = text.strip().lstrip("-")
        return Score(float(number.isdigit() and abs(int(number) - int(item.reference["answer"])) <= 1))

    assert any("near misses" in reason for reason in stress("loose", Judged(close), ITEMS, QUICK).reasons)
    strict = stress("strict", by(lambda answer, text: answer == text), ITEMS, QUICK)
    assert any(reason.startswith("recall") for reason in strict.reasons)
    dresses = {probe.kind for probe in right_replies(Item("i", "q", "", {"answer": "1234", "form": "number"}))}
    allowed = tuple(sorted(dresses - {"reference"}))
    many = Arithmetic(Arithmetic.Settings(difficulty=5)).make(0, 120)
    forgiven = stress("strict", by(lambda a, t: a == t), many, StressSettings(leave_out=allowed, junk_items=1))
    assert forgiven.strong, forgiven.reasons
    assert forgiven.left_out == allowed


def test_a_verifier_that_abstains_or_raises_on_a_reply_is_weak():
    silent = stress("silent", Judged(lambda item, text: Score(None, "no idea", abstained=True)), ITEMS, QUICK)
    assert silent.verdict == "weak"
    assert silent.recall.abstained == silent.num_right

    def breaks(item, text):
        return Score(float(int(text) == int(item.reference["answer"])))

    broken = stress("breaks", Judged(breaks), ITEMS, QUICK)
    assert any("raises on" in reason and "ValueError" in reason for reason in broken.reasons)


def test_too_few_items_decide_nothing_and_let_nothing_pass():
    report = stress("final_answer", Checks(), ITEMS[:3], QUICK)
    assert report.verdict == "undecided"
    with pytest.raises(GateFailed, match="undecided"):
        require_strong(report)


def test_near_misses_are_never_the_right_answer_and_all_options_hold_it_in_the_middle():
    item = Item("i", "Which?", "t", {"answer": "11", "form": "number", "wrong": ["12", "11"]})
    assert "11" not in {probe.text for probe in near_misses(item, [item])}
    listed = [p.text for p in attacks(item, ITEMS[:4], junk=False) if p.kind == "all_options"]
    assert listed
    assert all("11" in text and not text.startswith("11") and not text.endswith("11") for text in listed)


def test_formats_follow_the_form_of_the_answer():
    kinds = {
        probe.kind: probe.text for probe in right_replies(Item("i", "q", "", {"answer": "1234", "form": "number"}))
    }
    assert kinds["thousands"] == "1,234"
    exact = Item("i", "q", "", {"answer": "Ab", "checks": {"final_answer": {"case_sensitive": True}}})
    assert "other_case" not in {probe.kind for probe in right_replies(exact)}
    code = {probe.kind for probe in right_replies(Item("i", "q", "", {"answer": "f()", "form": "code"}))}
    assert "fenced" in code
    assert "final_stop" not in code
