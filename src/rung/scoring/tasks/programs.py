"""Small Python functions on whole numbers that must meet a contract, proved for all inputs by Z3 (`z3_program`).

Difficulty adds contracts: 1 has one operation, 2 a branch, 3 two conditions, 4 division, 5 three parameters together.
The instruction states the contract in words, the verifier holds it as a formula; only the function is the reply's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rung.scoring.task import Generated, Question, TaskSettings

__all__ = ["Programs"]

_ASK = "Use only whole numbers, + - * // %, if, min, max and abs. Answer with the function only."
_NAMES = ("solve", "compute", "calc", "get", "func", "work", "find", "make", "run", "apply", "value", "result_of")


@dataclass(frozen=True, slots=True)
class _Contract:
    """One kind of function: {a} and {b} are drawn, `wrong` are bodies that nearly meet it."""

    parameters: str
    words: str
    ensures: str
    body: str
    wrong: tuple[str, ...]
    requires: str = "True"


_CONTRACTS = {
    1: (
        _Contract("x", "returns x plus {a}", "result == x + {a}", "x + {a}", ("x - {a}", "x + {a} + 1")),
        _Contract("x", "returns {a} times x", "result == {a} * x", "{a} * x", ("{a} + x + x", "x")),
    ),
    2: (
        _Contract(
            "x",
            "returns x, but never less than {a}",
            "result >= {a} and (result == x or (x < {a} and result == {a}))",
            "max(x, {a})",
            ("min(x, {a})", "x if x > {a} else {a} + 1"),
        ),
        _Contract(
            "x", "returns how far x is from {a}, never negative", "result == abs(x - {a})", "abs(x - {a})",
            ("x - {a}", "abs(x) - {a}"),
        ),
    ),
    3: (
        _Contract(
            "x",
            "returns {a} if x is negative, {b} if x is zero, and x otherwise",
            "(x < 0 and result == {a}) or (x == 0 and result == {b}) or (x > 0 and result == x)",
            "{a} if x < 0 else {b} if x == 0 else x",
            ("{a} if x <= 0 else x", "{b} if x == 0 else x"),
        ),
    ),
    4: (
        _Contract(
            "n",
            "returns the largest multiple of {a} that is not larger than n",
            "result <= n < result + {a} and result % {a} == 0",
            "n // {a} * {a}",
            ("n // {a}", "n - n % {a} + {a}"),
        ),
        _Contract(
            "n",
            "returns how many boxes of {a} are needed for n things",
            "(result - 1) * {a} < n <= result * {a}",
            "(n + {a} - 1) // {a}",
            ("n // {a}", "n // {a} + 1"),
            "n >= 0",
        ),
    ),
    5: (
        _Contract(
            "x, low, high",
            "returns x plus {a} brought between low and high (low is not larger than high)",
            "result == (low if x + {a} < low else high if x + {a} > high else x + {a})",
            "max(low, min(x + {a}, high))",
            ("max(low, min(x, high))", "min(low, max(x + {a}, high))"),
            "low <= high",
        ),
        _Contract(
            "x, y, z",
            "returns the middle one of x, y and z, plus {a}",
            "result == x + y + z - min(x, y, z) - max(x, y, z) + {a}",
            "max(min(x, y), min(max(x, y), z)) + {a}",
            ("y + {a}", "max(x, y, z) + {a}"),
        ),
    ),
}  # fmt: skip


class ProgramsSettings(TaskSettings):
    """How hard."""


class Programs(Generated[ProgramsSettings]):
    """Functions to be written."""

    Settings = ProgramsSettings

    def draw(self, rng: random.Random) -> Question:
        """One contract with its numbers and a name for the function."""
        contract = rng.choice(_CONTRACTS[self.settings.difficulty])
        numbers = {"a": rng.randint(2, 40), "b": rng.randint(41, 99)}
        head = f"{rng.choice(_NAMES)}({contract.parameters})"
        words = contract.words.format(**numbers)
        check = {"signature": head, "requires": contract.requires, "ensures": contract.ensures.format(**numbers)}
        return Question(
            f"Write a Python function {head} that {words}. {_ASK}",
            _function(head, contract.body.format(**numbers)),
            {"z3_program": check},
            words,
            "code",
            tuple(_function(head, body.format(**numbers)) for body in contract.wrong),
        )


def _function(head: str, body: str) -> str:
    return f"def {head}:\n    return {body}"
