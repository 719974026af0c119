"""Answers labelled in several attributes, each label with its scale and who gave it; readers of published layouts.

A label that is not there stays not there: it is never filled in, and an answer without a label that a ranking needs is
not ranked. Attributes on different scales are brought to shares of their scale before they are weighed together.

Layouts read, as plain dictionaries: CodeUltraFeedback (arXiv 2403.09032: `instruction`, `preference`, `responses` and
`annotations` by model, ratings 1 to 5 as text, "N/A" where the judge gave none), HelpSteer2 (arXiv 2406.08673: five
attributes 0 to 4 per response) and its preferences (arXiv 2410.01257: `preference_strength` -3 to 3, below 0 for the
first response).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.base.errors import DataError, SettingsError
from rung.datagen.preference_ranking import RankedAnswer, Ranking
from rung.records.types import record_id

__all__ = [
    "HELPSTEER2_ATTRIBUTES",
    "Label",
    "LabelledAnswer",
    "Ranked",
    "from_code_ultra_feedback",
    "from_helpsteer2",
    "from_helpsteer2_preference",
    "rankings",
]

HELPSTEER2_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_NOT_RATED = ("", "n/a", "none")
_CODE_JUDGE = "CodeUltraFeedback/gpt-3.5-turbo"
_HELPSTEER2 = "HelpSteer2/human"


@dataclass(frozen=True, slots=True)
class Label:
    """One attribute's value on its scale, None where the labeller gave none; `source` is data set and labeller."""

    value: float | None
    low: float
    high: float
    source: str
    rationale: str = ""

    @property
    def share(self) -> float | None:
        """The value as a share of its scale, 0 to 1."""
        return None if self.value is None else (self.value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """One answer to an instruction, with its labels by attribute; `author` is the model or person that wrote it."""

    id: str
    instruction: str
    response: str
    author: str
    labels: Mapping[str, Label]

    def values(self, attributes: Sequence[str]) -> tuple[float | None, ...]:
        """The attributes' values in order, None for missing ones: a training row with its mask."""
        return tuple(self.labels[name].value if name in self.labels else None for name in attributes)


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rankings of prompts with at least two ranked answers, and how many answers lacked a label they needed."""

    rankings: tuple[Ranking, ...]
    num_unlabelled: int
    attributes: tuple[str, ...]


def from_code_ultra_feedback(
    record: Mapping[str, Any], place: str = "", labeller: str = _CODE_JUDGE
) -> list[LabelledAnswer]:
    """The answers of one CodeUltraFeedback record, each labelled in the record's one attribute (`code-...`).

    Raises:
        DataError: a field that is missing, a rating outside 1 to 5, or a model rated or answering twice.
    """
    instruction, preference = _text(record, "instruction", place), _text(record, "preference", place)
    attribute = preference if preference.startswith("code-") else f"code-{preference}"
    ratings = _by_model(record, "annotations", place)
    made = []
    for model, row in _by_model(record, "responses", place).items():
        rating = ratings.get(model, {})
        value = _rating(rating.get("rating"), 1, 5, f"{place}.annotations.{model}")
        label = Label(value, 1, 5, labeller, str(rating.get("rationale") or ""))
        made.append(
            _answer(instruction, _text(row, "response", f"{place}.responses.{model}"), model, {attribute: label})
        )
    return made


def from_helpsteer2(record: Mapping[str, Any], place: str = "", labeller: str = _HELPSTEER2) -> LabelledAnswer:
    """The answer of one HelpSteer2 record, labelled in those of the five attributes that it has.

    Raises:
        DataError: a field that is missing, or a value that is no number from 0 to 4.
    """
    labels = {
        name: Label(_rating(record.get(name), 0, 4, f"{place}.{name}"), 0, 4, labeller)
        for name in HELPSTEER2_ATTRIBUTES
    }
    return _answer(_text(record, "prompt", place), _text(record, "response", place), "", labels)


def from_helpsteer2_preference(record: Mapping[str, Any], place: str = "", labeller: str = _HELPSTEER2) -> Ranking:
    """The two answers of one HelpSteer2 preference record, scored half its strength up and down (0: a tie).

    Raises:
        DataError: a field that is missing, or a strength outside -3 to 3.
    """
    strength = _rating(record.get("preference_strength"), -3, 3, f"{place}.preference_strength")
    if strength is None:
        raise DataError("'preference_strength' is missing", place=place)
    texts = [_text(record, f"response_{number}", place) for number in (1, 2)]
    scores = (-strength / 2, strength / 2)
    answers = tuple(
        RankedAnswer(text, score, labeller, f"response_{number}")
        for number, (text, score) in enumerate(zip(texts, scores, strict=True), 1)
    )
    return Ranking(_text(record, "prompt", place), answers, metadata={"label_source": labeller})


def rankings(answers: Sequence[LabelledAnswer], weights: Mapping[str, float]) -> Ranked:
    """Answers grouped by instruction and scored by a weighted mean of attributes, in points of the first one's scale.

    A negative weight counts against (verbosity, say). The label sources are kept in the ranking's metadata.

    Raises:
        SettingsError: no weights, or only zeros.
    """
    total = sum(abs(weight) for weight in weights.values())
    if not total:
        raise SettingsError("at least one attribute needs a weight", place="weights")
    groups: dict[str, list[RankedAnswer]] = {}
    sources: dict[str, set[str]] = {}
    num_unlabelled = 0
    for answer in answers:
        labels = [answer.labels.get(name) for name in weights]
        shares = [label.share for label in labels if label is not None and label.share is not None]
        if len(shares) < len(weights):
            num_unlabelled += 1
            continue
        first = answer.labels[next(iter(weights))]
        mean = math.fsum(weight * share for weight, share in zip(weights.values(), shares, strict=True)) / total
        used = sorted({label.source for label in labels if label is not None})
        score = round(mean * (first.high - first.low), 9)
        groups.setdefault(answer.instruction, []).append(
            RankedAnswer(answer.response, score, "+".join(used), answer.author or answer.id)
        )
        sources.setdefault(answer.instruction, set()).update(used)
    made = [
        Ranking(asked, tuple(rows), metadata={"label_source": sorted(sources[asked]), "weights": dict(weights)})
        for asked, rows in groups.items()
        if len(rows) > 1
    ]
    return Ranked(tuple(made), num_unlabelled, tuple(weights))


def _answer(instruction: str, response: str, author: str, labels: Mapping[str, Label]) -> LabelledAnswer:
    return LabelledAnswer(record_id("labelled", instruction, response, author), instruction, response, author, labels)


def _text(record: Mapping[str, Any], name: str, place: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise DataError(f"'{name}' must be text, it is {value!r:.60}", place=place)
    return value


def _by_model(record: Mapping[str, Any], name: str, place: str) -> dict[str, Mapping[str, Any]]:
    """The rows of a list by their `model`."""
    rows = record.get(name)
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise DataError(f"'{name}' must be a list, it is {rows!r:.60}", place=place)
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        model = _text(row, "model", f"{place}.{name}")
        if model in found:
            raise DataError(f"'{model}' stands twice in '{name}'", place=place)
        found[model] = row
    return found


def _rating(value: Any, low: float, high: float, place: str) -> float | None:
    """A number on the scale, None where nothing was rated."""
    if value is None or (isinstance(value, str) and value.strip().casefold() in _NOT_RATED):
        return None
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high:
        raise DataError(f"a rating is a number from {low} to {high}, got {value!r:.60}", place=place)
    return number
