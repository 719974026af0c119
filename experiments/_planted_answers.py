"""Short answers of planted kinds of words, for models that fit in a test: how brief, how polite, how many numbers.

An answer is up to eight words. Three attributes from 0 to 4 follow from its words alone, so the truth can be counted
in any text; labels carry a labeller's noise. Brevity pulls against the other two, which need words.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.datagen.labelled_set import LabelledSet
from rung.datagen.preference_labels import Label, LabelledAnswer, rankings
from rung.datagen.preference_ranking import ranked_pairs
from rung.pipeline.stage import Context, Outputs, Stage
from rung.records.chat.frame import Frame
from rung.records.manifest import Opened
from rung.records.types import SftRecord, record_id
from rung.scoring.task import Generated, Question, TaskSettings

__all__ = ["ATTRIBUTES", "PlantedAnswers", "PlantedData", "PlantedPrompts", "truth"]

ATTRIBUTES = ("brevity", "politeness", "numbers")
_MOST, _SCALE = 8, 4
_POLITE = ("please", "thanks", "kindly")
_NUMBERS = ("3", "7", "12")
_PLAIN = ("stone", "rain", "lamp", "field", "boat", "wool")


def truth(text: str) -> dict[str, float]:
    """The attributes of any text as shares of their scale, counted; without a word all are 0."""
    words = text.split()
    if not words:
        return dict.fromkeys(ATTRIBUTES, 0.0)
    polite = sum(word in _POLITE for word in words)
    numbers = sum(word.isdigit() for word in words)
    values = (_SCALE * (_MOST - len(words)) / (_MOST - 1), polite, numbers)
    return {name: min(_SCALE, max(0.0, value)) / _SCALE for name, value in zip(ATTRIBUTES, values, strict=True)}


def _answer(rng: random.Random) -> str:
    return " ".join(rng.choice(rng.choice((_POLITE, _NUMBERS, _PLAIN))) for _ in range(rng.randint(1, _MOST)))


def _instruction(rng: random.Random) -> str:
    return f"say {rng.randrange(10_000)}"


class PlantedPrompts(Generated[TaskSettings]):
    """Prompts that any answer may follow; their number only tells them apart."""

    Settings = TaskSettings

    def draw(self, rng: random.Random) -> Question:
        """One prompt, with an answer for the record."""
        asked = _instruction(rng)
        return Question(asked, _answer(rng), {"word_limit": {"maximum": _MOST}}, asked)


class PlantedData(Stage):
    """Prompts answered without looking at them: what the policy says before it is rewarded."""

    class Settings(Settings):
        """How many."""

        count: int = Field(768, ge=1, description="records")

    outputs: Mapping[str, str] = {"sft": "sft"}

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """One shard."""
        rng = random.Random(context.seed)
        records = [_record(n, _instruction(rng), _answer(rng)) for n in range(self.settings.count)]
        outputs.shard("sft", 0, records)

    def figures(self, output: Opened) -> dict[str, Any]:
        """A count that stands for quality control: the answers are ours."""
        return {"qc": {"records": output.count("sft")}}


class PlantedAnswers:
    """Answers with their labels, and the pairs that their mean makes."""

    class Settings(Settings):
        """How many, how well labelled."""

        count: int = Field(200, ge=1, description="prompts")
        per_prompt: int = Field(4, ge=2, le=20, description="answers to each")
        noise: float = Field(0.25, ge=0, le=4, description="deviation of a label from the truth, in points")
        seed: int = Field(0, ge=0, description="of the draws")

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def make(self) -> LabelledSet:
        """All answers, prompt after prompt."""
        own, rng = self.settings, random.Random(derive(self.settings.seed, "planted answers"))
        answers: dict[str, LabelledAnswer] = {}
        for _ in range(own.count):
            asked = _instruction(rng)
            for _ in range(own.per_prompt):
                one = self._labelled(rng, asked, _answer(rng))
                answers.setdefault(one.id, one)
        kept = tuple(answers.values())
        return LabelledSet(ranked_pairs(rankings(kept, dict.fromkeys(ATTRIBUTES, 1.0)).rankings).pairs, kept)

    def _labelled(self, rng: random.Random, asked: str, text: str) -> LabelledAnswer:
        labels = {}
        for name, share in truth(text).items():
            value = min(_SCALE, max(0.0, _SCALE * share + rng.gauss(0.0, self.settings.noise)))
            labels[name] = Label(value, 0, _SCALE, "planted")
        return LabelledAnswer(record_id("labelled", asked, text), asked, text, "planted", labels)


def _record(number: int, instruction: str, response: str) -> SftRecord:
    return SftRecord(
        id=record_id(number, instruction),
        instruction=instruction,
        response=response,
        type="planted_prompts",
        prompt=Frame.prompt(instruction),
        training_prompt=Frame.prompt(instruction),
        completion=Frame.completion(response),
        raw_response=response,
        finish_reason="eos",
        num_response_tokens=-1,
        instruction_critique=None,
        pair_critique=None,
        metadata={"loader_version": "1", "model_name": "written by hand", "git_commit": "experiments", "seed": number},
    )
