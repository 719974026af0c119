"""Item 444: for verifiable types an unverified answer cannot become chosen, and a right one cannot be rejected."""

import pytest

from rung.base.errors import GateFailed
from rung.records.contracts import Item, Trace
from rung.scoring.checks import Checks
from rung.scoring.tasks.arithmetic import Arithmetic
from rung.scoring.verified import may_be_chosen, may_be_rejected, require_verified, verify_answers

ITEM = Arithmetic(Arithmetic.Settings()).make(0, 1)[0]
RIGHT, WRONG = ITEM.reference["answer"], str(int(ITEM.reference["answer"]) + 1)
TYPES = {"arithmetic"}


def verdicts(*texts, item=ITEM):
    found = verify_answers([item] * len(texts), [Trace(item.id, text) for text in texts], Checks())
    return {one.of: one for one in found}


def test_only_a_verified_answer_is_chosen_and_only_a_refuted_one_rejected():
    known = verdicts(RIGHT, WRONG)
    assert may_be_chosen(ITEM, RIGHT, known, TYPES)
    assert not may_be_chosen(ITEM, WRONG, known, TYPES)
    assert may_be_rejected(ITEM, WRONG, known, TYPES)
    assert not may_be_rejected(ITEM, RIGHT, known, TYPES)


def test_a_verdict_belongs_to_its_text_and_its_question():
    known = verdicts(RIGHT)
    assert not may_be_chosen(ITEM, RIGHT + " ", known, TYPES)
    other = Item(ITEM.id, ITEM.instruction, ITEM.type, {**ITEM.reference, "answer": WRONG})
    assert not may_be_chosen(other, RIGHT, known, TYPES)


def test_an_abstention_is_neither_right_nor_wrong():
    item = Item("i", "Say it.", "math", {"checks": {"language": {"language": "english"}}, "answer": "x"})
    broken = Item("i", "Solve.", "math", {"checks": {"z3_program": {"signature": "f(x)", "ensures": "g(x)"}}})
    known = verdicts("def f(x): return x", item=broken)
    assert [one.verdict for one in known.values()] == ["unjudged"]
    assert not may_be_chosen(broken, "def f(x): return x", known, {"math"})
    assert not may_be_rejected(broken, "def f(x): return x", known, {"math"})
    assert may_be_chosen(item, "anything", {}, {"arithmetic"})


def test_a_gate_names_the_first_unverified_chosen_answer():
    known = verdicts(RIGHT, WRONG)
    require_verified([(ITEM, RIGHT)], known, TYPES)
    with pytest.raises(GateFailed, match="1 chosen answers are not verified"):
        require_verified([(ITEM, RIGHT), (ITEM, WRONG)], known, TYPES)
    with pytest.raises(GateFailed, match="never judged"):
        require_verified([(ITEM, "7 eggs")], known, TYPES)
