"""Small Python functions to be written: arithmetic, text, lists, parsing, small dynamic programming.

Difficulty sets which families are drawn (six at 1, all fourteen from 4 on) and how large their parameters are. The
instruction shows some of the tests; the hidden ones are drawn from the same arguments and are judged too. Expected
results come from the reference solution, which rung wrote. `code` judges.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rung.base.settings import Field
from rung.scoring.task import Generated, Question, TaskSettings
from rung.scoring.tasks._function_families import FAMILIES, Drawn

__all__ = ["Functions"]

_ATTEMPTS = 200


class FunctionsSettings(TaskSettings):
    """How hard, which families, how many tests."""

    families: tuple[str, ...] = Field(default=(), description="families used; none: by difficulty")
    num_shown: int = Field(default=2, ge=1, le=10, description="tests that the instruction shows")
    num_hidden: int = Field(default=4, ge=1, le=50, description="tests that it does not show")
    partial: bool = Field(default=False, description="reward the share of tests that hold rather than all or none")


class Functions(Generated[FunctionsSettings]):
    """Functions with tests."""

    Settings = FunctionsSettings

    def draw(self, rng: random.Random) -> Question:
        """One function."""
        level = self.settings.difficulty
        names = self.settings.families or tuple(name for name, (least, _) in FAMILIES.items() if least <= level)
        family = rng.choice(names)
        drawn = FAMILIES[family][1](rng, level)
        tests = self._tests(drawn, rng)
        shown, hidden = tests[: self.settings.num_shown], tests[self.settings.num_shown :]
        problem = {"entry_point": drawn.name, "tests": shown, "hidden": hidden}
        instruction = (
            f"Write a Python function `{drawn.name}({drawn.arguments})` that returns {drawn.asks}. "
            "Answer with the code only. It must pass:\n" + "\n".join(shown)
        )
        return Question(
            instruction,
            _code(drawn, drawn.body),
            {"code": {"problem": problem, "partial": self.settings.partial}},
            f"{family} {' '.join(drawn.body)}",
            "code",
            tuple(_code(drawn, (line,)) for line in drawn.wrong if not self.settings.partial),
        )

    def _tests(self, drawn: Drawn, rng: random.Random) -> list[str]:
        """Assertions with different arguments, among them such that each wrong body fails one."""
        wanted = self.settings.num_shown + self.settings.num_hidden
        right, wrong = _callable(drawn, drawn.body), [_callable(drawn, (line,)) for line in drawn.wrong]
        found: dict[str, tuple[Any, ...]] = {}
        for _ in range(_ATTEMPTS):
            given = drawn.given(rng)
            telling = [other for other in wrong if _result(other, given) != right(*given)]
            if len(found) < wanted - len(wrong) or telling:
                found[repr(given)] = given
                wrong = [other for other in wrong if other not in telling]
            if len(found) >= wanted and not wrong:
                break
        return [f"assert {drawn.name}({_listed(given)}) == {right(*given)!r}" for given in found.values()][:wanted]


def _code(drawn: Drawn, body: Sequence[str]) -> str:
    return f"def {drawn.name}({drawn.arguments}):\n" + "\n".join(f"    {line}" for line in body)


def _callable(drawn: Drawn, body: Sequence[str]) -> Any:
    """The function of rung's own code; a solution is never run like this."""
    namespace: dict[str, Any] = {}
    exec(_code(drawn, body), namespace)
    return namespace[drawn.name]


def _result(function: Any, given: tuple[Any, ...]) -> Any:
    try:
        return function(*given)
    except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        return error


def _listed(given: tuple[Any, ...]) -> str:
    return ", ".join(map(repr, given))
