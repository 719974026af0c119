"""Counting letters in a word, words in a line, or how often a word stands in a list.

Difficulty sets how long the thing is. The number alone is asked for; `final_answer` judges.
"""

from __future__ import annotations

import random
from typing import Literal

from rung.base.settings import Field
from rung.scoring.task import Generated, Question, TaskSettings
from rung.scoring.tasks._words import WORDS

__all__ = ["Counting"]

_Kind = Literal["letters", "words", "items"]
_ASK = "Answer with the number only."


class CountingSettings(TaskSettings):
    """How long, and what is counted."""

    kinds: tuple[_Kind, ...] = Field(default=("letters", "words", "items"), min_length=1, description="what is counted")


class Counting(Generated[CountingSettings]):
    """Things to be counted."""

    Settings = CountingSettings

    def draw(self, rng: random.Random) -> Question:
        """One thing of one kind."""
        kind = rng.choice(self.settings.kinds)
        instruction, number = getattr(self, f"_{kind}")(rng)
        return Question(
            f"{instruction} {_ASK}",
            str(number),
            {"final_answer": {"answer": str(number), "form": "number"}},
            instruction,
            "number",
            tuple(str(number + off) for off in (1, -1, 2)),
        )

    def _letters(self, rng: random.Random) -> tuple[str, int]:
        parts = rng.sample(WORDS, 1 + (self.settings.difficulty - 1) // 2)
        letter = rng.choice("".join(parts)) if rng.random() < 0.9 else rng.choice("aeiou")
        shown = " ".join(parts)
        return f"How many times does the letter {letter} occur in '{shown}'?", shown.count(letter)

    def _words(self, rng: random.Random) -> tuple[str, int]:
        number = rng.randint(2, 3 + 3 * self.settings.difficulty)
        return f"How many words are there in '{' '.join(rng.choices(WORDS, k=number))}'?", number

    def _items(self, rng: random.Random) -> tuple[str, int]:
        kinds = rng.sample(WORDS, 2 + self.settings.difficulty // 2)
        entries = rng.choices(kinds, k=rng.randint(3, 3 + 2 * self.settings.difficulty))
        wanted = rng.choice(kinds)
        return f"How often does '{wanted}' stand in this list: {', '.join(entries)}?", entries.count(wanted)
