"""Which of several numbers is largest or smallest, which word comes first or last in the alphabet.

Difficulty sets how many there are to choose from and, for numbers, how close they are (negative ones from 3 on,
decimals from 4 on). The choice alone is asked for; `final_answer` judges.
"""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Literal

from rung.base.settings import Field
from rung.scoring.task import Generated, Question, TaskSettings
from rung.scoring.tasks._words import WORDS

__all__ = ["Comparison"]

_Kind = Literal["numbers", "words"]


class ComparisonSettings(TaskSettings):
    """How many, and of what."""

    kinds: tuple[_Kind, ...] = Field(default=("numbers", "words"), min_length=1, description="what is compared")


class Comparison(Generated[ComparisonSettings]):
    """Things to choose from."""

    Settings = ComparisonSettings

    def draw(self, rng: random.Random) -> Question:
        """One choice."""
        return self._numbers(rng) if rng.choice(self.settings.kinds) == "numbers" else self._words(rng)

    def _numbers(self, rng: random.Random) -> Question:
        difficulty, word = self.settings.difficulty, rng.choice(("largest", "smallest"))
        low = -50 if difficulty >= 3 else 1
        drawn = rng.sample(range(low, 100), 1 + difficulty)
        shown = [f"{n / 10:g}" if difficulty >= 4 else str(n) for n in drawn]
        answer = (max if word == "largest" else min)(shown, key=Fraction)
        return self._question("number", word, shown, answer, {"answer": answer, "form": "number"})

    def _words(self, rng: random.Random) -> Question:
        word = rng.choice(("first", "last"))
        shown = rng.sample(WORDS, 1 + self.settings.difficulty)
        answer = min(shown) if word == "first" else max(shown)
        return self._question("word", f"{word} in the alphabet", shown, answer, {"answer": answer})

    def _question(self, noun: str, word: str, shown: list[str], answer: str, check: dict[str, str]) -> Question:
        verb = "comes" if noun == "word" else "is the"
        return Question(
            f"Which {noun} {verb} {word}: {', '.join(shown[:-1])} or {shown[-1]}? Answer with the {noun} only.",
            answer,
            {"final_answer": check},
            f"{word} {sorted(shown)}",
            "number" if noun == "number" else "text",
            tuple(other for other in shown if other != answer),
        )
