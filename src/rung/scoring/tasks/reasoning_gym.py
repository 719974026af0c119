"""Families of the package reasoning-gym (Apache-2.0; extra `verifiers`), judged by their own scorers.

Difficulty is the level of the package's curricula. Questions are the package's words with one sentence on the form of
the answer. Wrong replies are made from the right ones: nothing here runs the package in this process.
"""

from __future__ import annotations

import random

from rung.base.settings import Field
from rung.scoring.apart.client import shared
from rung.scoring.task import Generated, Question, TaskSettings

__all__ = ["ReasoningGymTask"]

_ASK = "Answer with the result only."
_LONGEST = 600
_SECONDS = 20.0


class ReasoningGymTaskSettings(TaskSettings):
    """Which of the families."""

    families: tuple[str, ...] = Field(
        default=("gcd", "count_bits", "letter_counting", "spell_backward", "chain_sum", "leg_counting"),
        min_length=1,
        description="names of `apart/gym.py`",
    )


class ReasoningGymTask(Generated[ReasoningGymTaskSettings]):
    """Items of reasoning-gym."""

    Settings = ReasoningGymTaskSettings

    def draw(self, rng: random.Random) -> Question:
        """One item of one family, the next index while its text is too long for a small model."""
        family, seed = rng.choice(self.settings.families), rng.randrange(1000)
        index = rng.randrange(90_000)
        where = {"family": family, "seed": seed, "level": self.settings.difficulty}
        found = shared("gym").call({**where, "index": index}, _SECONDS)
        while len(found["question"]) > _LONGEST:
            index += 1
            found = shared("gym").call({**where, "index": index}, _SECONDS)
        answer = found["answer"]
        return Question(
            f"{found['question'].strip()} {_ASK}",
            answer,
            {"reasoning_gym": {**where, "index": index}},
            found["question"],
            "exact",
            (f"{answer}1", f"not {answer}", f"1{answer}" if answer[0].isalnum() else "1"),
        )
