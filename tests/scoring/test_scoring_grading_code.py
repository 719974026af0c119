"""From a reply to a score: which code counts, how it is graded in workers, and what a second grader says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.scoring.grading_programs import DOUBLE, FORGERIES, HONEST
from tests.scoring.grading_sandboxes import Failing, PipeSandbox

from rung.base.errors import DataError, SettingsError
from rung.base.settings import validate
from rung.records.contracts import Item, Trace
from rung.scoring.grading.batch import disagreement, second_opinion
from rung.scoring.grading.extract import code_in
from rung.scoring.grading.grade import GradingSettings, grade
from rung.scoring.grading.oracle import OracleSettings
from rung.scoring.grading.problem import Problem, ProblemSettings, problem_of
from rung.scoring.grading.scan import alarms
from rung.scoring.grading.workers import Graders, WorkerSettings
from rung.scoring.verifiers.code import Code

ROOT = Path(__file__).parents[2]
F = "def f(x):\n    return x"
DOCUMENTED = 'def f(x):\n    """Say x.\n\nIt is x."""\n    return x'


@pytest.fixture(scope="module")
def graders():
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    workers = WorkerSettings(opener="tests.scoring.grading_sandboxes:piped", test_seconds=2)
    with Graders(workers, GradingSettings(oracle=OracleSettings(wall_seconds=3))) as opened:
        yield opened
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (f"```python\n{F}\n```", F + "\n"),
        (f"Here:\n```\n{F}\n```\nDone.", F + "\n"),
        (f"```py\n{F}\n```\nOr:\n```python\ndef f(x):\n    return 1\n```", ""),
        (f"```py\n{F}\n```\nOnce more:\n```python\n{F}\n\n```", F + "\n"),
        (f"{F}\n\ndef f(x):\n    return 1", ""),
        (f"```python\n{F}\n```\nUse it so:\n```python\nprint(f(2))\n```", F + "\n"),
        (f"```python\n{F}", F),
        (f"1. First:\n   ```python\n   {F.replace(chr(10), chr(10) + '   ')}\n   ```", F + "\n"),
        (f"Sure, this works:\n\nimport math\n\n{F}\n\nIt returns x.", f"import math\n\n{F}\n"),
        (f"{F}\n\nprint(f(1))\nThis prints 1.", f"{F}\n\nprint(f(1))"),
        ("f = lambda x: x", "f = lambda x: x"),
        (DOCUMENTED, DOCUMENTED),
        ("```json\n{}\n```", ""),
        (f"```bash\n{F}\n```", ""),
        ("```python\ndef g(x):\n    return x\n```", ""),
        ("I would define def f(x) so that it returns x.", ""),
        ("    " + F, ""),
        ("x" * 100_001, ""),
    ],
)  # fmt: skip
def test_which_code_counts(reply, code):
    assert code_in(reply, "f") == code


def scored(graders, reply, problem=None, **settings):
    problem = problem or {"entry_point": "f", "pairs": [[[1], 1], [[2], 2], [[3], 9]], "hidden": ["assert f(0) == 0"]}
    verifier = Code(validate(Code.Settings, {"problem": problem, **settings}, "test"), graders)
    return verifier.score([Item("i", "Write f.")], [Trace("i", reply)])[0]


def test_all_tests_or_a_share_of_them(graders):
    assert scored(graders, "def f(x):\n    return {3: 9}.get(x, x)").value == 1.0
    assert scored(graders, F).value == 0.0
    assert "test 3" in scored(graders, F).reason
    partial = Graders(WorkerSettings(opener="tests.scoring.grading_sandboxes:piped"), GradingSettings(all_tests=True))
    with partial:
        assert scored(partial, F, partial=True).value == 0.75
        assert scored(partial, F, partial=True, hidden=False).value == pytest.approx(2 / 3)
        assert scored(partial, F, partial=True).components == {"tests": 4.0, "passed": 3.0, "alarms": 0.0}


def test_reasons_are_named(graders):
    assert "syntax error" in scored(graders, "def f(x:\n    return x").reason
    assert "no code that defines 'f'" in scored(graders, "I cannot.").reason
    assert "ZeroDivisionError" in scored(graders, "def f(x): return 1\ny = 1 / 0").reason
    assert "frames: _getframe" in scored(graders, "import sys\ndef f(x):\n    sys._getframe()\n    return x").reason


def test_a_failure_of_the_sandbox_abstains_and_a_refusal_says_why(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with Graders(WorkerSettings(opener="tests.scoring.grading_sandboxes:refusing")) as refused:
        found = scored(refused, F)
    assert (found.value, found.abstained) == (None, True)
    assert "no rung" in found.reason
    with Graders(WorkerSettings(opener="tests.scoring.grading_sandboxes:failing")) as failing:
        assert scored(failing, F).abstained


def test_a_test_that_does_not_end_on_an_answer_is_the_answers_failure(graders):
    problem = {"entry_point": "f", "tests": ["while f(1) == 1:\n    pass", "assert f(1) == 2"]}
    endless = Graders(
        WorkerSettings(num_workers=1, opener="tests.scoring.grading_sandboxes:piped", test_seconds=0.5),
        GradingSettings(oracle=OracleSettings(wall_seconds=0.5)),
    )
    with endless:
        assert scored(endless, "def f(x): return 1", problem).value == 0.0
        looping = {"entry_point": "f", "tests": ["n = f(1)\nwhile n:\n    pass"]}
        found = scored(endless, "def f(x): return 1", looping)
        assert (found.value, "did not end" in found.reason) == (0.0, True)
        assert scored(endless, "def f(x): return 0", looping).value == 1.0


def test_jobs_keep_their_order_and_a_dead_worker_is_replaced(graders):
    solutions = [HONEST["plain"], FORGERIES["leaves at once"], HONEST["threads"], "def double(x): return 3"] * 3
    found = graders.grade([(DOUBLE, one) for one in solutions])
    assert [one.passed for one in found] == [True, False, True, False] * 3
    assert graders.sandbox_record == {"rung": "pipe"}
    for _ in range(5):
        for worker in list(graders._open):
            worker._process.kill()
        assert graders.grade([(DOUBLE, HONEST["plain"])])[0].passed


def test_a_worker_that_dies_on_a_job_twice_fails_it_and_one_that_never_takes_it_blames_nobody(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with Graders(WorkerSettings(num_workers=1, opener="tests.scoring.grading_sandboxes:piped")) as graders:
        killer = Problem("double", ("import os\nos.kill(os.getpid(), 9)",))
        found = graders.grade([(killer, HONEST["plain"])])[0]
        assert (found.ending, "died twice" in found.reason) == ("limit", True)
        assert graders.grade([(DOUBLE, HONEST["plain"])])[0].passed
        monkeypatch.setattr("rung.scoring.grading.workers._Worker.alive", lambda worker: worker._process.kill() or True)
        monkeypatch.setattr("rung.scoring.grading.workers._Worker.problem", lambda worker: worker._process.kill() or "")
        found = graders.grade([(DOUBLE, HONEST["plain"])])[0]
        assert (found.ending, found.num_passed) == ("infrastructure", 0)


def test_an_argument_that_cannot_be_sent_is_the_tasks_fault():
    problem = Problem("f", ("import threading\nf(threading.Lock())",))
    assert grade(problem, F, PipeSandbox()).ending == "infrastructure"


def test_time_and_calls_are_limited():
    settings = GradingSettings(oracle=OracleSettings(wall_seconds=0.3, max_calls=10))
    asleep = grade(Problem("f", ("f(1)",)), "import time\ndef f(x): time.sleep(60)", PipeSandbox(), settings)
    assert (asleep.ending, asleep.num_passed) == ("limit", 0)
    many = grade(Problem("f", ("while f(1):\n    pass",)), "def f(x): return 1", PipeSandbox(), settings)
    assert (many.ending, many.reason) == ("void", "more than 10 calls")
    busy = GradingSettings(cpu_seconds=1)
    assert grade(Problem("f", ("f(1)",)), "def f(x):\n    while True: pass", PipeSandbox(), busy).ending == "limit"


def test_problems_are_checked_before_anything_runs():
    with pytest.raises(SettingsError, match="entry_point"):
        validate(Code.Settings, {"problem": {"entry_point": "f(x)", "tests": ["assert f(1)"]}}, "test")
    with pytest.raises(DataError, match="no tests for 'f'"):
        problem_of(ProblemSettings(entry_point="f", hidden=("assert f(1)",)), hidden=False)


def test_alarms_tell_and_decide_nothing():
    assert alarms("import ctypes, gc\nfrom inspect import stack\ngetattr(x, '__subclasses__')") == (
        "frames: inspect", "memory: ctypes", "object graph: __subclasses__", "object graph: gc",
    )  # fmt: skip
    assert alarms("def f(x):\n    return sorted(x)") == ()
    assert alarms("not python at all (") == ()
    found = grade(DOUBLE, "import gc\n" + HONEST["plain"], PipeSandbox())
    assert (found.passed, found.alarms) == (True, ("object graph: gc",))


def test_the_second_grader_agrees_on_honest_programs_and_not_on_a_planted_defect():
    sandbox = PipeSandbox()
    for program in (HONEST["plain"], HONEST["a lambda"], HONEST["a lot of output"]):
        assert second_opinion(DOUBLE, program, sandbox).passed is True
    for name in ("equal to everything", "int that equals everything", "leaves at once", "raises what tests look for"):
        assert second_opinion(DOUBLE, FORGERIES[name], sandbox).passed is False
    assert second_opinion(Problem("f", ("assert len(f(1)) == 1",)), F, sandbox).passed is None
    right = grade(DOUBLE, HONEST["plain"], sandbox)
    found = disagreement([(DOUBLE, HONEST["plain"], right), (DOUBLE, "def double(x): return 8642", right)], sandbox)
    assert (found.num_compared, found.num_disagreed, found.num_not_judged) == (2, 1, 0)


def test_a_failure_of_the_sandbox_is_told_apart_and_tried_again():
    found = grade(DOUBLE, HONEST["plain"], Failing())
    assert (found.ending, found.num_passed, found.reason) == ("infrastructure", 0, "the worker was lost")
