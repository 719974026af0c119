"""A word to be emitted: the toy on which a policy loop shows that it learns at all (models of any size, even tiny).

The word is the same for every item or, with several words, named by the item; only the prompt's number differs. The
reply passes when it is the word (`starts_with`: when it begins with it, for models that cannot stop yet).
"""

from __future__ import annotations

import random

from rung.base.settings import Field
from rung.scoring.task import Generated, Question, TaskSettings

__all__ = ["TargetWord"]


class TargetWordSettings(TaskSettings):
    """Which word."""

    words: tuple[str, ...] = Field(default=("yes",), min_length=1, description="the words asked for, one per item")
    exact: bool = Field(default=True, description="whether nothing else may stand in the reply")
    prompt: str = Field(default="Item {number}. Say {word}.", description="the prompt; {number} tells items apart")


class TargetWord(Generated[TargetWordSettings]):
    """Prompts that ask for one word."""

    Settings = TargetWordSettings

    def draw(self, rng: random.Random) -> Question:
        """One prompt."""
        word, number = rng.choice(self.settings.words), rng.randrange(10_000)
        check = {"final_answer": {"answer": word}} if self.settings.exact else {"starts_with": {"beginnings": [word]}}
        instruction = self.settings.prompt.format(number=number, word=word)
        return Question(instruction, word, check, f"{number} {word}", "text", (word[:-1], word[::-1] + "x"))
