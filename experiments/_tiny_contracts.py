"""A function that must meet a contract, for a model that fits in a test: judged by a proof, or by tests that miss.

The larger of two numbers is asked for. The tests are those that somebody writes who thinks of sorted positive pairs;
two of the wrong bodies pass them.
"""

from __future__ import annotations

import random
from typing import Any, Literal

from experiments._tiny_code import program
from rung.base.settings import Field
from rung.scoring.task import Generated, Question, TaskSettings

__all__ = ["BODIES", "CONTRACT", "TinyContracts"]

RIGHT = "max(a, b)"
BODIES = {"right": RIGHT, "first": "a", "size": "abs(a)", "least": "min(a, b)"}
"""What the model writes before it is trained by reward, each equally likely."""
CONTRACT = {"signature": "f(a, b)", "ensures": "result >= a and result >= b and (result == a or result == b)"}
_PAIRS = [[5, 2], [7, 3], [9, 1], [6, 4]]


class TinyContractsSettings(TaskSettings):
    """Who judges."""

    judge: Literal["proof", "tests"] = Field("proof", description="Z3 against the contract, or tests in the sandbox")


class TinyContracts(Generated[TinyContractsSettings]):
    """The larger of two numbers, to be written as `f`; the item's number only tells items apart."""

    Settings = TinyContractsSettings

    def draw(self, rng: random.Random) -> Question:
        """One function."""
        number = rng.randrange(10_000)
        checks: dict[str, dict[str, Any]] = {
            "proof": {"z3_program": CONTRACT},
            "tests": {"code": {"problem": {"entry_point": "f", "pairs": [[pair, max(pair)] for pair in _PAIRS]}}},
        }
        # what the tests cannot tell is no wrong answer to them: a stress test of the verifier would refuse them
        wrong = [
            body
            for name, body in BODIES.items()
            if name == "least" or (self.settings.judge == "proof" and body != RIGHT)
        ]
        return Question(
            f"larger {number}", program(RIGHT), checks[self.settings.judge], f"larger {number}", "code",
            tuple(map(program, wrong)),
        )  # fmt: skip
