"""Sums, differences, products, quotients and short chains of whole numbers.

Difficulty 1 is one addition or subtraction up to 20, 2 adds one-digit products, 3 two-digit numbers and exact
divisions, 4 a chain of two operations with precedence, 5 one of three with larger numbers. The number alone is asked
for; `final_answer` judges, exactly.
"""

from __future__ import annotations

import random

from rung.base.settings import Field
from rung.scoring.task import Generated, Question, TaskSettings

__all__ = ["Arithmetic"]

_LARGEST = {1: 20, 2: 50, 3: 99, 4: 50, 5: 999}
_NUM_OPERATIONS = {1: 1, 2: 1, 3: 1, 4: 2, 5: 3}
_OPERATIONS = {1: "+-", 2: "+-*", 3: "+-*/", 4: "+-*", 5: "+-*"}
_WORDINGS = ("Compute {}.", "What is {}?", "Calculate {}.", "Work out {}.")


class ArithmeticSettings(TaskSettings):
    """How hard, and which operations."""

    operations: str = Field(default="", pattern=r"^[-+*/]*$", description="operations used; empty: by difficulty")


class Arithmetic(Generated[ArithmeticSettings]):
    """Numbers to be computed."""

    Settings = ArithmeticSettings

    def draw(self, rng: random.Random) -> Question:
        """One computation; sums and products of two have one key whichever number comes first."""
        allowed = self.settings.operations or _OPERATIONS[self.settings.difficulty]
        signs = [rng.choice(allowed) for _ in range(_NUM_OPERATIONS[self.settings.difficulty])]
        numbers = self._numbers(rng, signs)
        shown = " ".join([str(numbers[0]), *(f"{s} {n}" for s, n in zip(signs, numbers[1:], strict=True))])
        value = _value(numbers, signs)
        swapped = len(signs) == 1 and signs[0] in "+*"
        key = f"{signs[0]} {sorted(numbers)}" if swapped else shown
        return Question(
            f"{rng.choice(_WORDINGS).format(shown)} Answer with the number only.",
            str(value),
            {"final_answer": {"answer": str(value), "form": "number"}},
            key,
            "number",
            tuple(str(value + off) for off in (1, -1, 10)),
        )

    def _numbers(self, rng: random.Random, signs: list[str]) -> list[int]:
        largest = _LARGEST[self.settings.difficulty]
        numbers = [rng.randint(1, largest)]
        for sign in signs:
            top = min(largest, 12) if sign in "*/" and self.settings.difficulty < 5 else largest
            numbers.append(rng.randint(2, max(2, top)))
        for place, sign in enumerate(signs):
            if sign == "/":  # exact: the dividend is made from the quotient
                numbers[place] = numbers[place + 1] * rng.randint(2, 12)
        if signs == ["-"] and numbers[0] < numbers[1]:
            numbers.reverse()
        return numbers


def _value(numbers: list[int], signs: list[str]) -> int:
    """Products and quotients first, then from left to right."""
    terms = [numbers[0]]
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign == "*":
            terms[-1] *= number
        elif sign == "/":
            terms[-1] //= number
        else:
            terms.append(number if sign == "+" else -number)
    return sum(terms)
