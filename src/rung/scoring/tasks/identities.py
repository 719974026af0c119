"""Expressions to be expanded, factored or simplified; the reply is proved equal to the task's own by Z3.

Difficulty 1 collects like terms, 2 multiplies a number into a sum, 3 expands a product of two sums, 4 factors a
quadratic, 5 expands a cube or a product of three. The expression alone is asked for, with * and ^; any right form is
accepted, not only the reference (`z3_identity`). The task's left side is never the model's to choose.
"""

from __future__ import annotations

import random

from rung.scoring.task import Generated, Question, TaskSettings

__all__ = ["Identities"]

_ASK = "Use * for products and ^ for powers. Answer with the expression only."


class IdentitiesSettings(TaskSettings):
    """How hard."""


class Identities(Generated[IdentitiesSettings]):
    """Expressions to be rewritten."""

    Settings = IdentitiesSettings

    def draw(self, rng: random.Random) -> Question:
        """One expression with its normal form."""
        makers = {1: _collect, 2: _distribute, 3: _product, 4: _factor, 5: _cube}
        verb, left, answer, form = makers[self.settings.difficulty](rng)
        wrong = (f"{answer} + 1", f"{answer} - x", left if form == "collected" else f"({answer}) + 0*x - 2")
        check = {"z3_identity": {"left": left.replace("^", "**"), "form": form}}
        return Question(f"{verb} {left}. {_ASK}", answer, check, left, "exact", wrong)


def _coefficients(rng: random.Random, count: int, largest: int = 9) -> list[int]:
    return [rng.choice((-1, 1)) * rng.randint(1, largest) for _ in range(count)]


def _collect(rng: random.Random) -> tuple[str, str, str, str]:
    a, b, c, d = (abs(n) for n in _coefficients(rng, 4))
    left = f"({a}*x + {b}) + ({c}*x + {d})"
    return "Simplify", left, f"{a + c}*x + {b + d}", "collected"


def _distribute(rng: random.Random) -> tuple[str, str, str, str]:
    a, b, c = _coefficients(rng, 3)
    factor = abs(a) + 1
    return "Expand", f"{factor}*({b}*x {_signed(c)})", f"{factor * b}*x {_signed(factor * c)}", "collected"


def _product(rng: random.Random) -> tuple[str, str, str, str]:
    a, b = _coefficients(rng, 2)
    return "Expand", f"(x {_signed(a)})*(x {_signed(b)})", _polynomial([1, a + b, a * b]), "collected"


def _factor(rng: random.Random) -> tuple[str, str, str, str]:
    a, b = _coefficients(rng, 2)
    return "Factor", _polynomial([1, a + b, a * b]), f"(x {_signed(a)})*(x {_signed(b)})", "factored"


def _cube(rng: random.Random) -> tuple[str, str, str, str]:
    a, b, c = _coefficients(rng, 3, largest=5)
    left = f"(x {_signed(a)})*(x {_signed(b)})*(x {_signed(c)})"
    return "Expand", left, _polynomial([1, a + b + c, a * b + a * c + b * c, a * b * c]), "collected"


def _signed(number: int) -> str:
    return f"+ {number}" if number >= 0 else f"- {-number}"


def _polynomial(coefficients: list[int]) -> str:
    """Terms from the highest power down, those of coefficient 0 left out."""
    text = ""
    for place, number in enumerate(coefficients):
        power = len(coefficients) - 1 - place
        name = "" if power == 0 else "x" if power == 1 else f"x^{power}"
        size = name if abs(number) == 1 and name else f"{abs(number)}*{name}" if name else str(abs(number))
        if number:
            text += f" {'-' if number < 0 else '+'} {size}" if text else f"{'-' if number < 0 else ''}{size}"
    return text
