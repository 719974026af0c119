"""A heuristic is measured on hand-labelled examples before it may gate; below its limit it is advisory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from rung.base.errors import DataError
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Subject
from rung.datagen.heuristics import HEURISTICS
from rung.datagen.pool import SOURCES

__all__ = ["Labelled", "Quality", "ValidationSettings", "advisory", "load_labelled", "validate_heuristics"]


class ValidationSettings(BaseSettings):
    """What a heuristic must reach."""

    min_precision: float = Field(default=0.9, ge=0, le=1, description="of what it flags, the share labelled as a fault")
    min_recall: float = Field(default=0.6, ge=0, le=1, description="of the labelled faults, the share it flags")
    min_examples: int = Field(default=6, ge=1, description="faults, and likewise good ones, needed to judge it at all")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A hand-labelled example: is this a fault that `heuristic` is there to find?"""

    heuristic: str
    subject: Subject
    fault: bool


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a heuristic does. `precision` is None when it flagged nothing, `recall` when there were no faults."""

    heuristic: str
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    missed: tuple[str, ...]

    @property
    def precision(self) -> float | None:
        """True positives over everything flagged."""
        flagged = self.true_positives + self.false_positives
        return self.true_positives / flagged if flagged else None

    @property
    def recall(self) -> float | None:
        """True positives over all faults."""
        faults = self.true_positives + self.false_negatives
        return self.true_positives / faults if faults else None


def load_labelled(path: Path = SOURCES / "heuristic_examples.yaml") -> list[Labelled]:
    """The shipped examples, or a file of the same form: heuristic -> {faults: [...], good: [...]}.

    An example is a text (the response; for "unfit" the instruction) or a mapping with instruction, response,
    finish_reason, prompt.

    Raises:
        DataError: unreadable, an unknown heuristic, or an example of another form.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"cannot read labelled examples: {error}", place=path.name) from error
    found = []
    for name, groups in values.items():
        if name not in HEURISTICS:
            raise DataError(f"no heuristic is called '{name}'", place=path.name, hint=f"known: {', '.join(HEURISTICS)}")
        for key, fault in (("faults", True), ("good", False)):
            found += [Labelled(name, _subject(name, example, path.name), fault) for example in groups.get(key, [])]
    return found


def _subject(heuristic: str, example: object, place: str) -> Subject:
    if isinstance(example, str):
        return Subject(example) if heuristic == "unfit" else Subject("", example)
    if isinstance(example, Mapping) and example.keys() <= {"instruction", "response", "finish_reason", "prompt"}:
        return Subject(
            example.get("instruction", ""),
            example.get("response"),
            example.get("finish_reason", ""),
            example.get("prompt", ""),
        )
    raise DataError(f"an example of '{heuristic}' is neither a text nor a known mapping: {example!r:.60}", place=place)


def validate_heuristics(examples: Sequence[Labelled]) -> dict[str, Quality]:
    """Precision and recall of every heuristic on its own examples, with what it got wrong."""
    return {name: _measure(name, [e for e in examples if e.heuristic == name]) for name in HEURISTICS}


def _measure(name: str, examples: Sequence[Labelled]) -> Quality:
    counts = {(said, fault): 0 for said in (True, False) for fault in (True, False)}
    wrong = []
    for example in examples:
        said = HEURISTICS[name](example.subject) is not None
        counts[said, example.fault] += 1
        if said != example.fault:
            wrong.append(example.subject.text)
    return Quality(
        name, counts[True, True], counts[True, False], counts[False, True], counts[False, False], tuple(wrong)
    )


def advisory(qualities: Mapping[str, Quality], settings: ValidationSettings) -> dict[str, str]:
    """Heuristics that may not gate, with the reason in words."""
    reasons: dict[str, str] = {}
    for name, quality in qualities.items():
        faults = quality.true_positives + quality.false_negatives
        good = quality.false_positives + quality.true_negatives
        if min(faults, good) < settings.min_examples:
            reasons[name] = f"only {faults} faults and {good} good examples, {settings.min_examples} of each are needed"
        elif quality.precision is None or quality.precision < settings.min_precision:
            shown = "none" if quality.precision is None else f"{quality.precision:.0%}"
            reasons[name] = f"precision {shown}, needed {settings.min_precision:.0%}"
        elif quality.recall is not None and quality.recall < settings.min_recall:
            reasons[name] = f"recall {quality.recall:.0%}, needed {settings.min_recall:.0%}"
    return reasons
