"""A word to be reversed, put in capitals, or read letter by letter (first, last, n-th, without vowels).

Difficulty adds kinds and, from 4 on, a second word. The result alone is asked for; `final_answer` judges, with
attention to capitals where they are the point.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from rung.base.settings import Field
from rung.scoring.task import Generated, Question, TaskSettings
from rung.scoring.tasks._words import WORDS

__all__ = ["StringTransform"]

_Kind = Literal["upper", "first", "last", "title", "no_vowels", "reverse", "double", "second_last"]
_BY_DIFFICULTY: tuple[_Kind, ...] = ("upper", "first", "last", "title", "no_vowels", "reverse", "double", "second_last")


def _without_vowels(text: str) -> str:
    return "".join(letter for letter in text if letter not in "aeiou")


_TRANSFORMS: dict[str, tuple[str, Callable[[str], str]]] = {
    "upper": ("Write {} in capital letters.", str.upper),
    "first": ("What is the first letter of {}?", lambda text: text[0]),
    "last": ("What is the last letter of {}?", lambda text: text[-1]),
    "title": ("Write {} with each word starting with a capital letter.", str.title),
    "no_vowels": ("Remove the vowels (a, e, i, o, u) from {}.", _without_vowels),
    "reverse": ("Write {} backwards.", lambda text: text[::-1]),
    "double": ("Write every letter of {} twice.", lambda text: "".join(c * 2 if c != " " else c for c in text)),
    "second_last": ("What is the last letter but one of {}?", lambda text: text[-2]),
}  # fmt: skip


class StringTransformSettings(TaskSettings):
    """How hard, and which transforms."""

    kinds: tuple[_Kind, ...] = Field(default=(), description="transforms used; none: by difficulty")


class StringTransform(Generated[StringTransformSettings]):
    """Words to be transformed."""

    Settings = StringTransformSettings

    def draw(self, rng: random.Random) -> Question:
        """One transform of one text."""
        kinds = self.settings.kinds or _BY_DIFFICULTY[: 2 + 2 * self.settings.difficulty]
        kind = rng.choice(kinds)
        text = " ".join(rng.sample(WORDS, 1 if self.settings.difficulty < 4 else 2))
        wording, transform = _TRANSFORMS[kind]
        answer = transform(text)
        exact = kind in ("upper", "title")
        instruction = f"{wording.format(repr(text))} Answer with the result only."
        check = {"final_answer": {"answer": answer, "case_sensitive": exact}}
        return Question(instruction, answer, check, f"{kind} {text}", "text", _near(text, answer))


def _near(text: str, answer: str) -> tuple[str, ...]:
    """The text unchanged, one letter too few, one too many, two letters swapped: those that differ from the answer."""
    swapped = answer[1::-1] + answer[2:] if len(answer) > 1 else ""
    found = [text, answer[:-1], answer + answer[-1], swapped]
    return tuple(near for near in found if near.strip() and near.casefold() != answer.casefold())
