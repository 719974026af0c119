"""A trained reward model on labelled answers: its probabilities set right on one part, its readings of another stored.

What is set right depends on what the model says. A model of pairs gets one temperature and the score of a middling
answer; a model of quantiles one offset for each level; a model of steps a temperature for either question.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rung.base.errors import ModelError
from rung.datagen.labelled_set import LabelledSet
from rung.evaluate.probabilities import fit_temperature
from rung.evaluate.quantiles import conformal_offsets
from rung.pipeline.stage import Context
from rung.pipeline.stages._model import room
from rung.pipeline.stages._reward_sets import answers_of
from rung.records.chat.frame import Frame
from rung.records.contracts import Item, Trace
from rung.records.manifest import Opened
from rung.records.types import PairReward, RewardReading

__all__ = ["HEAD", "Readings", "calibrated", "open_reward_model", "readings_of"]

HEAD = "reward_head"
_LOCAL = ("run", "dir", "gguf")  # a manifest names no path of a machine


@dataclass(frozen=True, slots=True)
class Readings:
    """Pairs and answers as the model reads them, and how many it could not read."""

    pairs: tuple[PairReward, ...]
    answers: tuple[RewardReading, ...]
    num_unread: int


def open_reward_model(context: Context, trained: Opened) -> Any:
    """The reward model that a reward stage trained, as something to lend to rewards: `Lent(readers={name: this})`.

    The body is the model that it was trained on; one that lies on a disk (`run:`, `dir:`, `gguf:`) is the recipe's.

    Raises:
        ModelError: the head does not fit its model, or that is not the one that it was trained on.
    """
    adapter = any(info.role == "adapter" for info in trained.manifest.files)
    known = trained.manifest.model
    source = str(known.get("source", ""))
    source = context.model_source if source.partition(":")[0] in ("", *_LOCAL) else source
    loaded = context.models.load(source, trained.file("adapter").parent if adapter else None)
    if loaded.content_id != known.get("content_id", loaded.content_id):
        raise ModelError(f"'{trained.manifest.name}' was trained on another model", place=source)
    heads, reader = room("models.head"), room("train.reward_reader")
    head, facts = heads.load_head(trained.file(HEAD).parent, loaded.network.shape.width)
    heads.attach_head(loaded.network, head)
    return reader.RewardReader(loaded.network, loaded.tokenizer, reader.RewardFacts.model_validate(facts))


def calibrated(reader: Any, data: LabelledSet, objective: Any) -> Any:
    """The reader's facts with what the calibration part says; as they are where it says nothing."""
    if hasattr(objective, "combined"):
        return reader.facts.model_copy(update={"temperatures": _step_temperatures(reader, data)})
    if objective.reads == "pairs":
        return reader.facts.model_copy(update=_pair_scale(reader, data))
    if reader.levels:
        return reader.facts.model_copy(update={"offsets": _offsets(reader, data)})
    return reader.facts


def readings_of(reader: Any, data: LabelledSet, objective: Any) -> Readings:
    """What the model says of a part's pairs or labelled answers."""
    if hasattr(objective, "combined"):
        return _solutions(reader, data)
    return _pairs(reader, data) if objective.reads == "pairs" else _answers(reader, data)


def _pair_scale(reader: Any, data: LabelledSet) -> dict[str, Any]:
    scores = _pair_scores(reader, data)
    known = [(chosen, rejected) for chosen, rejected in scores if chosen is not None and rejected is not None]
    if not known:
        return {}
    gaps = [chosen - rejected for chosen, rejected in known]
    # each pair in both orders, so that always saying "the first" earns nothing
    temperature = fit_temperature([*gaps, *(-gap for gap in gaps)], [True] * len(gaps) + [False] * len(gaps))
    return {"temperatures": (temperature,), "centre": statistics.median(score for pair in known for score in pair)}


def _pair_scores(reader: Any, data: LabelledSet) -> list[tuple[float | None, float | None]]:
    texts = [(pair.instruction, text) for pair in data.pairs for text in (pair.chosen, pair.rejected)]
    raw = [None if values is None else values[0][0] for values in reader.raw(texts)]
    return list(zip(raw[::2], raw[1::2], strict=True))


def _offsets(reader: Any, data: LabelledSet) -> tuple[tuple[float, ...], ...]:
    """From shares before they are held to 0 and 1, which is what offsets are added to."""
    _, answers = answers_of(data)
    found = reader.raw([(one.instruction, one.text) for one in answers])
    offsets = []
    for place, (mean, deviation) in enumerate(zip(reader.facts.means, reader.facts.deviations, strict=True)):
        rows = [
            ([mean + deviation * value for value in values[place]], float(label))
            for values, one in zip(found, answers, strict=True)
            if values is not None and (label := one.labels[place]) is not None
        ]
        offsets.append(conformal_offsets([row for row, _ in rows], [label for _, label in rows], reader.levels))
    return tuple(offsets)


def _step_temperatures(reader: Any, data: LabelledSet) -> tuple[float, ...]:
    """For steps and for wholes, from labels that are plainly yes or no."""
    pieces: list[tuple[int, tuple[str, str], float]] = []
    for one in data.solutions:
        for number, label in enumerate(one.soundness):
            if label is not None:
                pieces.append((0, ("\n".join([one.instruction, *one.lines[:number]]), one.lines[number]), label))
        if one.coherence is not None:
            pieces.append((1, (one.instruction, one.text), one.coherence))
    raw = reader.raw([text for _, text, _ in pieces])
    found = []
    for place in (0, 1):
        rows = [
            (values[place][0], label)
            for (part, _, label), values in zip(pieces, raw, strict=True)
            if part == place and values is not None and label in (0.0, 1.0)
        ]
        found.append(fit_temperature([logit for logit, _ in rows], [label == 1.0 for _, label in rows]))
    return tuple(found)


def _pairs(reader: Any, data: LabelledSet) -> Readings:
    scale, rewards = (reader.facts.temperatures or (1.0,))[0], []
    scores = _pair_scores(reader, data)
    for pair, (chosen, rejected) in zip(data.pairs, scores, strict=True):
        if chosen is not None and rejected is not None:
            counts = [_num_tokens(reader, text) for text in (pair.chosen, pair.rejected)]
            rewards.append(PairReward(pair.id, pair.kind, chosen / scale, rejected / scale, *counts))
    return Readings(tuple(rewards), (), len(data.pairs) - len(rewards))


def _answers(reader: Any, data: LabelledSet) -> Readings:
    _, answers = answers_of(data)
    attributes, found = tuple(reader.attributes), []
    for one, values in zip(answers, reader.read(*_asked([(a.instruction, a.text) for a in answers])), strict=True):
        if values is not None:
            count = _num_tokens(reader, one.text)
            found.append(RewardReading(one.id, one.instruction, "", attributes, one.labels, values, count))
    return Readings((), tuple(found), len(answers) - len(found))


def _solutions(reader: Any, data: LabelledSet) -> Readings:
    """Labels of an answer: none for the combination, the mean over its labelled steps, and that of the whole."""
    found = []
    read = reader.read(*_asked([(one.instruction, one.text) for one in data.solutions]))
    for one, values in zip(data.solutions, read, strict=True):
        known = [label for label in one.soundness if label is not None]
        labels = (None, statistics.fmean(known) if known else None, one.coherence)
        if values is not None:
            count, rank = _num_tokens(reader, one.text), float(one.rank)
            found.append(
                RewardReading(one.id, one.instruction, one.kind, tuple(reader.attributes), labels, values, count, rank)
            )
    return Readings((), tuple(found), len(data.solutions) - len(found))


def _asked(texts: Sequence[tuple[str, str]]) -> tuple[list[Item], list[Trace]]:
    return (
        [Item(str(number), instruction) for number, (instruction, _) in enumerate(texts)],
        [Trace(str(number), text) for number, (_, text) in enumerate(texts)],
    )


def _num_tokens(reader: Any, text: str) -> int:
    return len(reader.tokenizer.encode(Frame.completion(text)))
