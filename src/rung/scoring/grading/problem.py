"""What a code task asks of a solution, and what is known after it was graded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rung.base.errors import DataError
from rung.base.settings import Field, Settings

__all__ = ["Ending", "Grade", "Problem", "ProblemSettings", "problem_of"]

Ending = Literal["passed", "failed", "syntax", "raised", "missing", "limit", "void", "infrastructure"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A function to write and the tests that it has to pass.

    `given` is the task's code that both sides have (imports, classes, functions that the tests use); `setup` runs on
    the tests' side only, before them. Each of `tests` is code that raises when it fails; they share a namespace and
    run in order. All three run with the rights of the process that grades: they are the task author's, and a test that
    a model wrote belongs into a sandbox of its own. `in_place` brings what a call changed in its arguments back to the
    test, for tasks that ask for that.
    """

    entry_point: str
    tests: tuple[str, ...]
    given: str = ""
    setup: str = ""
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class Grade:
    """What came of it.

    `ending` is an `Ending`: "failed" is a test that did not hold, "raised" a solution that could not be loaded,
    "missing" one without the function, "limit" a bound on time, memory or output, "void" an answer that no honest
    program gives, and "infrastructure" a failure of the sandbox or of the task, which says nothing about the solution.
    A void run passes no test. `alarms` are what a scan saw in the code: information, never a verdict.
    """

    ending: str
    num_passed: int
    num_tests: int
    reason: str = ""
    alarms: tuple[str, ...] = ()
    num_calls: int = 0
    cpu_seconds: float = 0.0
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """All tests held."""
        return self.ending == "passed"

    @property
    def share(self) -> float:
        """Tests that held, of all."""
        return self.num_passed / self.num_tests if self.num_tests else 0.0


class ProblemSettings(Settings):
    """A problem as an item states it."""

    entry_point: str = Field(pattern=r"^[^\W\d]\w*$", description="name of the function")
    tests: tuple[str, ...] = Field((), description="code that raises when it fails, such as `assert f(1) == 2`")
    pairs: tuple[tuple[tuple[Any, ...], Any], ...] = Field((), description="[arguments, expected result], plain values")
    hidden: tuple[str, ...] = Field((), description="more tests, which no prompt shows")
    given: str = Field("", description="the task's code that both sides have: imports, classes, functions")
    setup: str = Field("", description="code of the tests' side alone, run before them")
    in_place: bool = Field(False, description="whether a test looks at what a call did to its arguments")


def problem_of(settings: ProblemSettings, hidden: bool = True) -> Problem:
    """The problem with its tests in order: `tests`, `pairs`, and the hidden ones if they are to be used.

    Raises:
        DataError: there are no tests.
    """
    name = settings.entry_point
    tests = [*settings.tests, *(_asserted(name, given, expected) for given, expected in settings.pairs)]
    tests += settings.hidden if hidden else ()
    if not tests:
        raise DataError(f"there are no tests for '{name}'", hint="give the problem `tests` or `pairs`")
    return Problem(name, tuple(tests), settings.given, settings.setup, settings.in_place)


def _asserted(entry_point: str, given: tuple[Any, ...], expected: Any) -> str:
    return f"assert {entry_point}({', '.join(map(repr, given))}) == {expected!r}"
