"""Words or numbers to be put in order, upwards or downwards; difficulty sets how many and how alike.

The entries alone are asked for, separated by commas; `final_answer` judges the sequence.
"""

from __future__ import annotations

import random
from typing import Literal

from rung.base.settings import Field
from rung.scoring.task import Generated, Question, TaskSettings
from rung.scoring.tasks._words import WORDS

__all__ = ["Sorting"]

_Kind = Literal["words", "numbers"]
_ASK = "Answer with the sorted list only, separated by commas."


class SortingSettings(TaskSettings):
    """How many, and of what."""

    kinds: tuple[_Kind, ...] = Field(default=("words", "numbers"), min_length=1, description="what is sorted")


class Sorting(Generated[SortingSettings]):
    """Lists to be sorted."""

    Settings = SortingSettings

    def draw(self, rng: random.Random) -> Question:
        """One list that is not in order yet."""
        kind, downwards = rng.choice(self.settings.kinds), rng.random() < 0.5
        entries = self._entries(rng, kind)
        ordered = sorted(entries, key=int if kind == "numbers" else None, reverse=downwards)
        if entries == ordered:
            entries = ordered[::-1]
        how = _order(kind, downwards)
        answer = ", ".join(ordered)
        swapped = [*ordered[:-2], ordered[-1], ordered[-2]]
        return Question(
            f"Sort {how}: {', '.join(entries)}. {_ASK}",
            answer,
            {"final_answer": {"answer": answer, "form": "list"}},
            f"{how} {sorted(entries)}",
            "list",
            (", ".join(swapped), ", ".join(ordered[::-1]), ", ".join(ordered[:-1]), ", ".join([*ordered, ordered[0]])),
        )

    def _entries(self, rng: random.Random, kind: _Kind) -> list[str]:
        number = 2 + self.settings.difficulty
        if kind == "words":
            return rng.sample(WORDS, number)
        return [str(n) for n in rng.sample(range(1, 10 ** min(4, 1 + self.settings.difficulty)), number)]


def _order(kind: _Kind, downwards: bool) -> str:
    if kind == "numbers":
        return "from largest to smallest" if downwards else "from smallest to largest"
    return "in reverse alphabetical order" if downwards else "in alphabetical order"
