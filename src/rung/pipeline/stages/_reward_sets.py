"""Labelled sets as a reward stage needs them: parted by prompt, and rendered as training examples.

What an objective reads decides which of a set's records are used. Labels go in as standard scores of their share of the
scale, so that attributes on different scales weigh the same. Where an objective wants labels and there are pairs alone,
each answer is labelled by whether it was preferred.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rung.base.errors import DataError
from rung.base.settings import Field, Settings
from rung.datagen.labelled_set import LabelledSet, LabelledSolution
from rung.datagen.preference_augment import PromptSplit
from rung.datagen.preference_labels import LabelledAnswer
from rung.pipeline.stages._model import room
from rung.records.chat.frame import Frame
from rung.records.packing import Example
from rung.records.types import PreferencePair

__all__ = ["PREFERRED", "Answer", "Parts", "PartsSettings", "Scales", "answers_of", "part_by_prompt", "training_data"]

PREFERRED = "preferred"


class PartsSettings(Settings):
    """Which prompts are kept for what; the rest is trained on."""

    test_share: float = Field(0.2, gt=0, le=0.5, description="share of prompts that decide about the model")
    calibration_share: float = Field(0.1, ge=0, le=0.4, description="share of prompts that set its probabilities right")
    salt: int = Field(0, ge=0, description="another number draws other sides")


@dataclass(frozen=True, slots=True)
class Parts:
    """A set in three: every prompt lies on one side."""

    train: LabelledSet
    calibration: LabelledSet
    test: LabelledSet


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its labels, whatever record it came from."""

    id: str
    instruction: str
    text: str
    labels: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Scales:
    """Attributes with the mean and deviation of their training labels, as shares of their scales."""

    attributes: tuple[str, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def standard(self, labels: Sequence[float | None]) -> tuple[float | None, ...]:
        """Shares as standard scores, missing ones as they are."""
        rows = zip(labels, self.means, self.deviations, strict=True)
        return tuple(None if share is None else (share - mean) / deviation for share, mean, deviation in rows)


def part_by_prompt(data: LabelledSet, settings: PartsSettings) -> Parts:
    """Training, calibration and test, by the hash of the prompt."""
    test = PromptSplit(test_share=settings.test_share, salt=settings.salt)
    kept = PromptSplit(test_share=settings.test_share + settings.calibration_share, salt=settings.salt)

    def side(instruction: str) -> str:
        """Which part a prompt lies in; the shares nest, so the test part is the same whatever the other is."""
        return "test" if test.is_test(instruction) else "calibration" if kept.is_test(instruction) else "train"

    return Parts(*(_only(data, name, side) for name in ("train", "calibration", "test")))


def answers_of(data: LabelledSet) -> tuple[tuple[str, ...], list[Answer]]:
    """Attributes and answers with shares as labels: the labelled ones, else those of pairs by preference."""
    if not data.answers:
        found = [
            Answer(f"{pair.id}:{side}", pair.instruction, text, (label,))
            for pair in data.pairs
            for side, text, label in (("chosen", pair.chosen, 1.0), ("rejected", pair.rejected, 0.0))
        ]
        return (PREFERRED,), found
    attributes = tuple(dict.fromkeys(name for answer in data.answers for name in answer.labels))
    return attributes, [_answer(answer, attributes) for answer in data.answers]


def training_data(tokenizer: Any, data: LabelledSet, objective: Any) -> tuple[Any, Scales | None]:
    """`rung.train.reward_rows.RewardData` for an objective, and the scales of its labels.

    Raises:
        DataError: the set has nothing that the objective reads.
    """
    rows = room("train.reward_rows")
    if hasattr(objective, "combined"):
        examples = [one for solution in data.solutions for one in _solution_examples(rows, tokenizer, solution)]
        attributes: tuple[str, ...] = type(objective).attributes
        return _filled(rows, examples, attributes, "solutions with labelled steps"), None
    if objective.reads == "pairs":
        return _filled(
            rows, [_pair_example(rows, tokenizer, pair) for pair in data.pairs], (), "preference pairs"
        ), None
    attributes, answers = answers_of(data)
    labelled = [one for one in answers if any(share is not None for share in one.labels)]
    scales = _scales(attributes, labelled)
    examples = [
        rows.RewardExample(one.id, one.instruction, (_rendered(tokenizer, one.id, one.instruction, one.text),), labels)
        for one in labelled
        for labels in (scales.standard(one.labels),)
    ]
    return _filled(rows, examples, attributes, "labelled answers"), scales


def _only(data: LabelledSet, name: str, side: Any) -> LabelledSet:
    return LabelledSet(
        tuple(one for one in data.pairs if side(one.instruction) == name),
        tuple(one for one in data.answers if side(one.instruction) == name),
        tuple(one for one in data.solutions if side(one.instruction) == name),
    )


def _answer(answer: LabelledAnswer, attributes: tuple[str, ...]) -> Answer:
    shares = tuple(answer.labels[name].share if name in answer.labels else None for name in attributes)
    return Answer(answer.id, answer.instruction, answer.response, shares)


def _scales(attributes: tuple[str, ...], answers: Sequence[Answer]) -> Scales:
    means, deviations = [], []
    for place, name in enumerate(attributes):
        shares = [share for one in answers if (share := one.labels[place]) is not None]
        if len(set(shares)) < 2:
            raise DataError(f"the training labels of '{name}' are all the same, or none", hint="leave it out")
        mean = math.fsum(shares) / len(shares)
        means.append(mean)
        deviations.append(math.sqrt(math.fsum((share - mean) ** 2 for share in shares) / len(shares)))
    return Scales(attributes, tuple(means), tuple(deviations))


def _rendered(tokenizer: Any, name: str, instruction: str, text: str) -> Example:
    return Example(name, Frame.render(tokenizer, instruction, text))


def _pair_example(rows: Any, tokenizer: Any, pair: PreferencePair) -> Any:
    sides = [
        _rendered(tokenizer, f"{pair.id}:{side}", pair.instruction, text)
        for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected))
    ]
    return rows.RewardExample(pair.id, pair.instruction, tuple(sides), strength=float(pair.metadata.get("margin", 1.0)))


def _solution_examples(rows: Any, tokenizer: Any, solution: LabelledSolution) -> list[Any]:
    """Each step after those before it (fine), each two together with the later one's label (merged), and the whole."""
    pieces: list[tuple[str, int, int, float | None, float | None]] = []
    for number, label in enumerate(solution.soundness):
        pieces.append((f"fine-{number}", number, number + 1, label, None))
        if number:
            pieces.append((f"merged-{number}", number - 1, number + 1, label, None))
    pieces.append(("whole", 0, len(solution.lines), None, solution.coherence))
    made = []
    for name, begin, end, sound, coherent in pieces:
        if sound is None and coherent is None:
            continue
        asked = "\n".join([solution.instruction, *solution.lines[:begin]])
        text = "\n".join(solution.lines[begin:end])
        answer = _rendered(tokenizer, f"{solution.id}:{name}", asked, text)
        made.append(rows.RewardExample(answer.id, solution.instruction, (answer,), (sound, coherent)))
    return made


def _filled(rows: Any, examples: Sequence[Any], attributes: tuple[str, ...], what: str) -> Any:
    if not examples:
        raise DataError(f"the data has no {what} to train on", hint="name an objective that reads what there is")
    return rows.RewardData(tuple(examples), attributes)
