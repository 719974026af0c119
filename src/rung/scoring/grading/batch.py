"""A second grader, built differently: all calls run in the guest in one go, and outside their results are compared.

It judges only tests of the form `assert f(literals) == literal`, and knows neither frames nor handles. How often it
disagrees with `grade.py` on programs that this one rewarded estimates how often the reward is won by something else
than a right function, be it a forgery or a defect of either grader.
"""

from __future__ import annotations

import ast
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rung.scoring.grading.problem import Grade, Problem
from rung.scoring.sandbox.contract import Limits, Sandbox, Verdict

__all__ = ["Disagreement", "Opinion", "disagreement", "second_opinion"]

_MOST_SHOWN = 20
_RUNNER = '''

def _run_all(name, calls, marker):
    """Call, flatten what is a plain type's subclass, and print."""
    import sys
    said = []
    for given in calls:
        try:
            value = globals()[name](*given)
            for kind in (dict, list, tuple, str, int, float):
                if isinstance(value, kind) and type(value) is not bool:
                    value = kind(value)
                    break
            said.append(repr(value))
        except Exception as error:
            said.append("raise " + type(error).__name__)
    sys.stdout.write("\\n" + marker + repr(said) + "\\n")
    sys.stdout.flush()


_run_all({name!r}, {calls!r}, {marker!r})
'''


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the second grader found: of the pairs that it can judge, how many the solution gets right."""

    num_right: int
    num_pairs: int
    reason: str = ""

    @property
    def passed(self) -> bool | None:
        """All of them; None when there is none to judge."""
        return self.num_right == self.num_pairs if self.num_pairs else None


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Programs that the first grader passed, and those of them that the second did not. `shown` are the first few."""

    num_compared: int
    num_disagreed: int
    num_not_judged: int
    shown: tuple[tuple[str, str], ...]


def second_opinion(problem: Problem, solution: str, sandbox: Sandbox, limits: Limits | None = None) -> Opinion:
    """Grade by input and output alone."""
    pairs = [pair for test in problem.tests for pair in _pairs(problem.entry_point, test)]
    if not pairs:
        return Opinion(0, 0, "no test is a plain pair of input and output")
    marker = f"results-{secrets.token_hex(8)} "
    calls = [given for given, _ in pairs]
    runner = _RUNNER.format(name=problem.entry_point, calls=calls, marker=marker)
    outcome = sandbox.run(f"{problem.given}\n{solution}\n{runner}", limits or Limits(output_bytes=4 << 20))
    if outcome.verdict is Verdict.INFRASTRUCTURE:
        return Opinion(0, 0, outcome.detail)
    said = _said(outcome.stdout.decode(errors="replace"), marker)
    right = sum(one == wanted for one, (_, wanted) in zip(said, pairs, strict=False))
    return Opinion(right, len(pairs), "" if said else f"no results: {outcome.detail or outcome.verdict}")


def disagreement(rewarded: Iterable[tuple[Problem, str, Grade]], sandbox: Sandbox) -> Disagreement:
    """Run the second grader on everything that the first one passed; the caller chooses the sample."""
    compared, unknown, shown = 0, 0, []
    for problem, solution, grade in rewarded:
        if not grade.passed:
            continue
        opinion = second_opinion(problem, solution, sandbox)
        if opinion.passed is None:
            unknown += 1
            continue
        compared += 1
        if not opinion.passed:
            shown.append((solution, f"{opinion.num_right} of {opinion.num_pairs} {opinion.reason}"))
    return Disagreement(compared, len(shown), unknown, tuple(shown[:_MOST_SHOWN]))


def _pairs(entry_point: str, test: str) -> list[tuple[list[Any], Any]]:
    """Arguments and expected value of every assertion that compares one call of literals with a literal."""
    found = []
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
            call, rest = node.test.left, node.test.comparators
            simple = isinstance(call, ast.Call) and not call.keywords and isinstance(node.test.ops[0], ast.Eq)
            if simple and len(rest) == 1 and isinstance(call, ast.Call) and _named(call.func, entry_point):
                pair = _literals([*call.args, rest[0]])
                found += [(pair[:-1], pair[-1])] if pair is not None else []
    return found


def _named(node: ast.expr, entry_point: str) -> bool:
    """The function itself, or the name under which HumanEval's tests know it."""
    return isinstance(node, ast.Name) and node.id in (entry_point, "candidate")


def _literals(nodes: list[ast.expr]) -> list[Any] | None:
    try:
        return [ast.literal_eval(node) for node in nodes]
    except ValueError:
        return None


def _said(output: str, marker: str) -> list[Any]:
    """The values that the last line of results states; one that is no literal equals nothing."""
    lines = [line for line in output.splitlines() if line.startswith(marker)]
    said = _read(lines[-1][len(marker) :]) if lines else []
    return [_read(one) for one in said] if isinstance(said, list) else []


def _read(text: Any) -> Any:
    try:
        return ast.literal_eval(text) if isinstance(text, str) else Ellipsis
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return Ellipsis
