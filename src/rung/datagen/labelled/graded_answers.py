"""Sums answered more and less right, in more and fewer words: two attributes whose labels are right by construction.

"correctness" from 0 to 4: off the subject, no number, off by ten or more, off by one or two, right. "verbosity" from 0
to 4: so many sentences that say nothing. The two are drawn apart from each other, so neither can stand for the other.
A share of the labels is missing, never both of an answer.
"""

from __future__ import annotations

import random

from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.datagen.labelled_set import LabelledSet
from rung.datagen.preference_labels import Label, LabelledAnswer, rankings
from rung.datagen.preference_ranking import ranked_pairs
from rung.records.types import record_id

__all__ = ["GradedAnswers"]

_SOURCE = "graded_answers"
_OFF_SUBJECT = (
    "The river is quiet in the evening.",
    "Most kitchens have a window over the sink.",
    "Trains to the coast leave every hour.",
)
_NO_NUMBER = ("That depends on how you look at it.", "I would have to think about that.", "It is hard to say.")
_FILLER = (
    "This is a question that many people ask.",
    "Let us look at it calmly and without haste.",
    "There is more than one way to go about it.",
    "It is good to be careful with such things.",
    "With a little patience it can be worked out.",
    "Of course one should always check the result.",
)


class GradedAnswersSettings(Settings):
    """How many, and how many labels are missing."""

    count: int = Field(200, ge=1, description="different sums")
    per_question: int = Field(4, ge=1, le=20, description="answers to each")
    largest: int = Field(99, ge=9, le=9999, description="largest number in a sum")
    missing: float = Field(0.2, ge=0, le=0.5, description="share of the labels that is left out")
    seed: int = Field(0, ge=0, description="of the draws")


class GradedAnswers:
    """Labelled answers, and the pairs that their correctness makes."""

    Settings = GradedAnswersSettings

    def __init__(self, settings: GradedAnswersSettings) -> None:
        self.settings = settings

    def make(self) -> LabelledSet:
        """All answers, question after question."""
        asked: dict[tuple[int, int], None] = {}
        drawn = random.Random(derive(self.settings.seed, _SOURCE))
        while len(asked) < min(self.settings.count, (self.settings.largest - 1) ** 2):
            asked.setdefault((drawn.randint(2, self.settings.largest), drawn.randint(2, self.settings.largest)))
        answers: dict[str, LabelledAnswer] = {}
        for place, (left, right) in enumerate(asked):
            for number in range(self.settings.per_question):
                rng = random.Random(derive(self.settings.seed, _SOURCE, place, number))
                one = _answer(rng, left, right, self.settings.missing)
                answers.setdefault(one.id, one)
        kept = tuple(answers.values())
        return LabelledSet(pairs=ranked_pairs(rankings(kept, {"correctness": 1.0}).rankings).pairs, answers=kept)


def _answer(rng: random.Random, left: int, right: int, missing: float) -> LabelledAnswer:
    correctness, verbosity = rng.randrange(5), rng.randrange(5)
    said = [*rng.sample(_FILLER, verbosity), _said(rng, correctness, left + right)]
    instruction, text = f"What is {left} + {right}?", " ".join(said)
    gone = rng.random()
    values = {
        "correctness": None if gone < missing else float(correctness),
        "verbosity": None if gone > 1 - missing else float(verbosity),
    }
    labels = {name: Label(value, 0, 4, _SOURCE) for name, value in values.items()}
    return LabelledAnswer(record_id("labelled", instruction, text, _SOURCE), instruction, text, _SOURCE, labels)


def _said(rng: random.Random, correctness: int, right: int) -> str:
    if correctness == 0:
        return rng.choice(_OFF_SUBJECT)
    if correctness == 1:
        return rng.choice(_NO_NUMBER)
    off = {2: rng.choice((10, 20, 50, 100)), 3: rng.choice((-2, -1, 1, 2)), 4: 0}[correctness]
    return f"The answer is {right + off}."
