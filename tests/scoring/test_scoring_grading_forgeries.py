"""Programs that would be right if the grader believed them: none passes, and the next honest one does."""

from __future__ import annotations

import pytest
from tests.scoring.grading_programs import DOUBLE, FORGERIES, HONEST
from tests.scoring.grading_sandboxes import SANDBOXES

from rung.scoring.grading.grade import GradingSettings, grade
from rung.scoring.grading.oracle import OracleSettings
from rung.scoring.grading.problem import Problem

SETTINGS = GradingSettings(cpu_seconds=2, oracle=OracleSettings(wall_seconds=10), all_tests=True)


@pytest.fixture(scope="module", params=SANDBOXES)
def sandbox(request):
    opened = SANDBOXES[request.param]()
    yield opened
    opened.close()


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_passes_nothing_and_leaves_nothing(sandbox, name):
    found = grade(DOUBLE, FORGERIES[name], sandbox, SETTINGS)
    assert found.ending not in ("passed", "infrastructure"), found
    assert found.num_passed == 0, found
    assert grade(DOUBLE, HONEST["plain"], sandbox, SETTINGS).passed


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes(sandbox, name):
    found = grade(DOUBLE, HONEST[name], sandbox, SETTINGS)
    assert found.passed, found


def test_names_of_the_library_and_builtins_are_never_the_solutions(sandbox):
    forged = (
        "class math:\n    isclose = staticmethod(lambda *a: True)\n    inf = 0\n"
        "def abs(x): return 0\ndef sorted(x): return 42\ndef set(x): return 42\ndef f(x): return 7"
    )
    tests = ("assert math.isclose(f(1), 2)", "assert abs(f(1) - 2) < 0.1", "assert sorted(f(1)) == sorted([2])")
    found = grade(Problem("f", tests), forged, sandbox, SETTINGS)
    assert (found.ending, found.num_passed) == ("failed", 0)
    assert grade(Problem("f", tests[:2]), "def f(x): return 2", sandbox, SETTINGS).passed


def test_a_helper_of_the_task_is_the_tasks_own(sandbox):
    given = "def poly(cs, x):\n    return sum(c * x ** i for i, c in enumerate(cs))\n\ndef zero(cs):\n    pass\n"
    problem = Problem("zero", ("assert abs(poly([-6, 2], zero([-6, 2]))) < 1e-4",), given=given)
    assert not grade(problem, given + "poly = lambda cs, x: 0\ndef zero(cs): return 99", sandbox, SETTINGS).passed
    assert grade(problem, given + "def zero(cs): return -cs[0] / cs[1]", sandbox, SETTINGS).passed


def test_arguments_are_the_tests_own_unless_the_task_is_about_them(sandbox):
    emptied = "def order(xs):\n    xs.clear()\n    return []"
    tests = ("xs = [3, 1]\nassert order(xs) == sorted(xs)",)
    assert not grade(Problem("order", tests), emptied, sandbox, SETTINGS).passed
    changed = ("xs = [3, [2], {'a': 1}]\norder(xs)\nassert xs == [1, [2], {'a': 1}]",)
    right = "def order(xs):\n    xs[0] = 1"
    assert grade(Problem("order", changed, in_place=True), right, sandbox, SETTINGS).passed
    assert not grade(Problem("order", changed), right, sandbox, SETTINGS).passed


def test_a_dataclass_is_compared_only_with_one_that_holds_what_the_test_gave(sandbox):
    tests = ("assert origin() == Point(0, y=1)", "assert origin() == Point(0, 1)")
    honest = (
        "import dataclasses\n@dataclasses.dataclass\nclass Point:\n    x: int\n    y: int\n"
        "def origin(): return Point(0, 1)"
    )
    assert grade(Problem("origin", tests), honest, sandbox, SETTINGS).passed
    for forged in (
        honest.replace("    x: int\n    y: int\n", "    def __init__(self, *a, **k): pass\n"),
        honest.replace("return Point(0, 1)", "return Point(0, 2)"),
        honest.replace("    y: int\n", "    y: int\n    def __post_init__(self): self.x = self.y = 5\n"),
        honest.replace("@dataclasses.dataclass\n", "").replace(
            "    x: int\n", "    def __init__(self, *a, **k): pass\n"
        ),
        honest.replace("@dataclasses.dataclass\nclass", "class")
        + "\nclass Point:\n    __init__ = lambda s, *a, **k: None\n    __eq__ = lambda s, o: True\n",
    ):
        found = grade(Problem("origin", tests), forged, sandbox, SETTINGS)
        assert found.num_passed == 0, (forged, found)


def test_what_is_judged_cannot_call_its_own_answer_the_expected_one(sandbox):
    """`add` gives back what it was given, as the test's own `Pair` would, and `Pair` whatever `add` gave last."""
    tests = ("assert add(1, 2) == Pair(3)",)
    forged = (
        "import dataclasses\nkept = [(0, 0)]\n@dataclasses.dataclass(init=False)\nclass Pair:\n    x: int\n    y: int\n"
        "    def __init__(self, *given):\n        self.x, self.y = given if len(given) == 2 else kept[-1]\n"
        "        kept.append((self.x, self.y))\nadd = Pair"
    )
    found = grade(Problem("add", tests), forged, sandbox, SETTINGS)
    assert (found.ending, found.num_passed) == ("failed", 0)
    found = grade(Problem("add", tests), forged.replace("add = Pair", "def add(*given): return Pair(*given)"), sandbox)
    assert not found.passed
    honest = "import dataclasses\n@dataclasses.dataclass\nclass Pair:\n    x: int\ndef add(a, b): return Pair(a + b)"
    assert grade(Problem("add", tests), honest, sandbox, SETTINGS).passed


def test_nothing_ends_what_a_test_goes_over_early(sandbox):
    tests = (
        "assert all(map(lambda x: double(x) == x + x, [1, 2]))",
        "for one, two in zip(map(double, [1, 2]), [2, 4]):\n    assert one == two",
        "for one in filter(double, [1, 2]):\n    assert double(one) == one + one",
    )
    for forged in (
        "def double(x): raise StopIteration",
        "class End(StopIteration): pass\ndef double(x): raise End(3)",
        "def double(x):\n    return next(iter([]))",
    ):
        assert grade(Problem("double", tests), forged, sandbox, SETTINGS).num_passed == 0, forged
    assert grade(Problem("double", tests), HONEST["plain"], sandbox, SETTINGS).passed
    twice = Problem("pairs", ("assert list(pairs(2)) == [(0, 0), (1, 1)]", "assert next(pairs(1)) == (0, 0)"))
    assert grade(twice, "def pairs(n):\n    for i in range(n):\n        yield i, i", sandbox, SETTINGS).passed
