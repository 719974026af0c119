"""Grade a solution: the tests run here, the solution elsewhere, and between them goes plain data.

In-process graders lose to small programs: an object that equals everything, a walk up the frames to the expected
value, a reloaded module. Here the tests and what they expect never enter the solution's process, and nothing that it
made runs in this one.

The tests are the task's and are trusted, but not to end: on a wrong answer a test may take for ever or all memory.
`workers.py` runs this function in processes that may be killed.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from rung.base.settings import Field, Settings
from rung.scoring.grading.names import LIBRARY, wanted_names
from rung.scoring.grading.oracle import OWN_CLASSES, Oracle, OracleSettings, Unsendable, Voided
from rung.scoring.grading.problem import Ending, Grade, Problem
from rung.scoring.grading.scan import alarms
from rung.scoring.sandbox.contract import Guest, Limits, Outcome, Sandbox, Verdict

__all__ = ["GradingSettings", "grade", "guest_program"]

_PROGRAM = Path(__file__).with_name("_guest.py")
_LIMITS = {Verdict.CPU_LIMIT, Verdict.WALL_LIMIT, Verdict.MEMORY, Verdict.OUTPUT_LIMIT}


class GradingSettings(Settings):
    """What a solution may use, and how far its tests are run."""

    oracle: OracleSettings = Field(OracleSettings(), description="how much it may say")
    cpu_seconds: float = Field(5.0, gt=0, le=3600, description="processor time for all tests together")
    memory_bytes: int = Field(512 << 20, ge=32 << 20, description="address space")
    output_bytes: int = Field(4 << 20, ge=0, description="standard output and error; it is not looked at")
    all_tests: bool = Field(False, description="go on after a test that fails, so that the share of passes is known")


@lru_cache(maxsize=1)
def guest_program() -> str:
    """The text that runs beside every solution; it is the same for all."""
    return _PROGRAM.read_text(encoding="utf-8") + "\n\nserve(_requests, _answers)\n"


def grade(problem: Problem, solution: str, sandbox: Sandbox, settings: GradingSettings | None = None) -> Grade:
    """Grade once; after a failure of the sandbox, once more."""
    settings = settings or GradingSettings()
    found = _Run(problem, solution, settings).grade(sandbox)
    return _Run(problem, solution, settings).grade(sandbox) if found.ending == "infrastructure" else found


class _Run:
    """One solution in one guest."""

    def __init__(self, problem: Problem, solution: str, settings: GradingSettings) -> None:
        self._problem, self._solution, self._settings = problem, solution, settings
        self._failures: dict[str, str] = {}
        self._num_passed = 0

    def grade(self, sandbox: Sandbox) -> Grade:
        """Open a guest, run the tests, end it."""
        settings = self._settings
        limits = Limits(
            cpu_seconds=settings.cpu_seconds,
            wall_seconds=settings.oracle.wall_seconds + 1,
            memory_bytes=settings.memory_bytes,
            output_bytes=settings.output_bytes,
        )
        guest = sandbox.open(guest_program(), limits)
        try:
            return self._asked(guest)
        finally:
            guest.end()

    def _asked(self, guest: Guest) -> Grade:
        problem = self._problem
        tests = "\n".join((problem.setup, *problem.tests))
        oracle = Oracle(guest, self._settings.oracle, wants_changes=problem.in_place, wants_output="stdout" in tests)
        try:
            namespace = self._namespace(oracle)
            ending, reason = self._ended(oracle, namespace)
        except _Ended as ended:
            ending, reason = ended.args
        except Voided as stopped:
            ending, reason = self._stopped(oracle, guest, stopped)
        except Unsendable as error:
            ending, reason = "infrastructure", f"the task cannot be graded: {error}"
        return self._grade(ending, reason, oracle, guest.end())

    def _namespace(self, oracle: Oracle) -> dict[str, Any]:
        """Where the tests run: the task's own code, and handles for what it leaves to the solution."""
        problem = self._problem
        wanted = wanted_names((problem.given, problem.setup, *problem.tests), problem.entry_point)
        try:
            found = oracle.load(problem.given, self._solution, [name for name in wanted if name not in LIBRARY])
        except SyntaxError as error:
            raise _Ended("syntax", f"syntax error: {error}") from error
        except Exception as error:
            raise _Ended("raised", _words(error)) from error
        if problem.entry_point not in found:
            raise _Ended("missing", f"there is no '{problem.entry_point}'")
        namespace: dict[str, Any] = {"__name__": OWN_CLASSES}
        _executed(problem.given, namespace, "given")
        namespace |= {name: importlib.import_module(name) for name in wanted if name in LIBRARY}
        return namespace | found

    def _ended(self, oracle: Oracle, namespace: dict[str, Any]) -> tuple[Ending, str]:
        """Run setup and tests till one fails, or all of them."""
        try:
            _executed(self._problem.setup, namespace, "setup")
        except Exception as error:
            raise _Ended("failed", f"setup: {_words(error)}") from error
        for number, test in enumerate(self._problem.tests, 1):
            self._test(str(number), test, namespace)
            if self._failures and not self._settings.all_tests:
                break
        oracle.finish()
        if self._failures:
            first, words = next(iter(self._failures.items()))
            return "failed", f"test {first}: {words}"
        return "passed", ""

    def _test(self, number: str, test: str, namespace: dict[str, Any]) -> None:
        try:
            _executed(test, namespace, f"test {number}")
        except Unsendable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a test raises is its verdict
            self._failures[number] = _words(error)
        else:
            self._num_passed += 1

    def _stopped(self, oracle: Oracle, guest: Guest, stopped: Voided) -> tuple[Ending, str]:
        """What ended a run before its tests did."""
        if oracle.void:
            return "void", oracle.void
        outcome = guest.end()
        if outcome.verdict is Verdict.INFRASTRUCTURE:
            return "infrastructure", outcome.detail
        if outcome.verdict in _LIMITS:
            return "limit", f"{outcome.verdict}: {outcome.detail}"
        if "seconds" in str(stopped) and outcome.verdict is Verdict.OK and outcome.exit_code is None:
            return "limit", str(stopped)
        return "failed", f"the solution ended: {outcome.detail or outcome.verdict}"

    def _grade(self, ending: Ending, reason: str, oracle: Oracle, outcome: Outcome) -> Grade:
        return Grade(
            ending,
            0 if ending in ("void", "infrastructure") else self._num_passed,
            len(self._problem.tests),
            reason[:500],
            alarms(self._solution),
            oracle.num_calls,
            outcome.cpu_seconds,
            self._failures,
        )


class _Ended(Exception):
    """The solution came no further than this: (ending, reason)."""

    args: tuple[Ending, str]


def _executed(code: str, namespace: dict[str, Any], name: str) -> None:
    """Run the task's code; never a solution's."""
    if code.strip():
        exec(compile(code, f"<{name}>", "exec"), namespace)


def _words(error: BaseException) -> str:
    said = str(error).strip()[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
