"""Verifiers prove themselves on answers labelled by hand before any score of theirs is believed.

`validate_scorers` runs the checks of every labelled answer and reports agreement: Cohen's kappa (Cohen 1960) with a
bootstrap interval, and precision and recall per verifier. `reliability` then says whether a suite that uses
certain verifiers may be trusted; below the limits its result is to be marked unreliable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rung.base.errors import DataError
from rung.base.settings import Field, Settings
from rung.records.types import TestItem, record_id
from rung.scoring.checks import run_checks, validate_checks

__all__ = [
    "Agreement",
    "Labelled",
    "Reliability",
    "ValidationSettings",
    "VerifierFigures",
    "cohens_kappa",
    "labelled_answers",
    "reliability",
    "validate_scorers",
]

_SHIPPED = Path(__file__).parent / "labelled_answers.yaml"


class ValidationSettings(Settings):
    """The limits under which scores are not believed."""

    min_kappa: float = Field(
        default=0.8, ge=-1, le=1, description="least agreement with the labels, lower end of interval"
    )
    min_precision: float = Field(default=0.8, ge=0, le=1, description="least share of accepted answers that are right")
    min_recall: float = Field(default=0.8, ge=0, le=1, description="least share of right answers that are accepted")
    min_answers: int = Field(default=8, ge=2, description="labelled answers a verifier needs to be judged")
    num_resamples: int = Field(default=2000, ge=100, description="bootstrap samples of kappa, over instructions")
    seed: int = Field(default=0, ge=0, description="of the bootstrap")


@dataclass(frozen=True, slots=True)
class Labelled:
    """One hand-labelled answer: an item with its checks, what was replied, and whether that answers it."""

    item: TestItem
    reply: str
    good: bool


@dataclass(frozen=True, slots=True)
class VerifierFigures:
    """One verifier on the answers of instructions it checks alone (`num_alone`), or with others where it has none."""

    num_answers: int
    alone: bool
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the labelled set says about the verifiers. `disagreements` are (instruction, reply, label, reasons)."""

    num_answers: int
    num_instructions: int
    kappa: float
    kappa_low: float
    kappa_high: float
    num_abstained: int
    verifiers: Mapping[str, VerifierFigures]
    disagreements: tuple[tuple[str, str, bool, str], ...]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Whether results that rest on these verifiers may be believed, and why not."""

    reliable: bool
    reasons: tuple[str, ...]


def labelled_answers(path: Path = _SHIPPED) -> list[Labelled]:
    """The labelled answers of a file (the shipped ones by default).

    Raises:
        DataError: an entry without instruction, checks, or good and bad answers.
        SettingsError: an unknown verifier or setting.
    """
    found = []
    for number, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")), 1):
        place = f"{path.name} entry {number}"
        if not isinstance(entry, dict) or entry.keys() != {"ask", "checks", "good", "bad"}:
            raise DataError("an entry has exactly the keys ask, checks, good, bad", place=place)
        validate_checks(entry["checks"], place)
        item = TestItem(record_id(entry["ask"]), entry["ask"], "labelled", entry["ask"], entry["checks"], "")
        found += [Labelled(item, str(reply), True) for reply in entry["good"]]
        found += [Labelled(item, str(reply), False) for reply in entry["bad"]]
    return found


def cohens_kappa(labels: Sequence[bool], verdicts: Sequence[bool]) -> float:
    """Agreement beyond chance; 1.0 when both are constant and equal, 0.0 when constant and chance explains all.

    Raises:
        DataError: lists of different length or without entries.
    """
    if len(labels) != len(verdicts) or not labels:
        raise DataError(f"kappa needs paired labels and verdicts, got {len(labels)} and {len(verdicts)}")
    a, b = np.asarray(labels, dtype=bool), np.asarray(verdicts, dtype=bool)
    observed = float((a == b).mean())
    expected = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    if expected == 1.0:
        return 1.0
    return (observed - expected) / (1 - expected)


def validate_scorers(labelled: Sequence[Labelled], settings: ValidationSettings | None = None) -> Agreement:
    """Run every check on every labelled answer. An abstention counts as "not accepted" and is counted apart.

    Raises:
        DataError: no labelled answers.
    """
    settings = settings or ValidationSettings()
    outcomes = [run_checks(entry.item, entry.reply) for entry in labelled]
    labels, verdicts = [entry.good for entry in labelled], [outcome.passed for outcome in outcomes]
    names = sorted({name for entry in labelled for name in entry.item.checks})
    values = [outcome.verdicts for outcome in outcomes]
    low, high = _kappa_interval([entry.item.id for entry in labelled], labels, verdicts, settings)
    return Agreement(
        num_answers=len(labelled),
        num_instructions=len({entry.item.id for entry in labelled}),
        kappa=cohens_kappa(labels, verdicts),
        kappa_low=low,
        kappa_high=high,
        num_abstained=sum(outcome.abstained for outcome in outcomes),
        verifiers={name: _figures(name, labelled, values) for name in names},
        disagreements=tuple(
            (entry.item.instruction, entry.reply, entry.good, _reasons(outcome.verdicts))
            for entry, outcome in zip(labelled, outcomes, strict=True)
            if entry.good != outcome.passed
        ),
    )


def reliability(
    agreement: Agreement, verifiers: Iterable[str], settings: ValidationSettings | None = None
) -> Reliability:
    """Whether a suite that uses `verifiers` may be believed: the set's kappa, then each verifier's own figures."""
    settings = settings or ValidationSettings()
    reasons = []
    if agreement.kappa_low < settings.min_kappa:
        shown = f"kappa {agreement.kappa:.2f} [{agreement.kappa_low:.2f}, {agreement.kappa_high:.2f}]"
        reasons.append(f"{shown} on {agreement.num_answers} labelled answers, {settings.min_kappa:.2f} is needed")
    for name in sorted(set(verifiers)):
        figures = agreement.verifiers.get(name)
        if figures is None or figures.num_answers < settings.min_answers:
            count = figures.num_answers if figures else 0
            reasons.append(f"{name}: {count} labelled answers, {settings.min_answers} are needed")
            continue
        if (figures.precision or 0.0) < settings.min_precision:
            reasons.append(f"{name}: precision {figures.precision or 0.0:.2f}, {settings.min_precision:.2f} is needed")
        if (figures.recall or 0.0) < settings.min_recall:
            reasons.append(f"{name}: recall {figures.recall or 0.0:.2f}, {settings.min_recall:.2f} is needed")
    return Reliability(not reasons, tuple(reasons))


def _figures(name: str, labelled: Sequence[Labelled], verdicts: Sequence[Mapping[str, Any]]) -> VerifierFigures:
    """Where other checks take part, a bad answer may be bad for their reasons, so answers it checks alone go first."""
    rows = [(e, v) for e, v in zip(labelled, verdicts, strict=True) if name in e.item.checks]
    alone = [(e, v) for e, v in rows if len(e.item.checks) == 1]
    used = alone or rows
    accepted = [entry.good for entry, v in used if all(v[check]["value"] == 1.0 for check in entry.item.checks)]
    num_good = sum(entry.good for entry, _ in used)
    precision = sum(accepted) / len(accepted) if accepted else None
    recall = sum(accepted) / num_good if num_good else None
    return VerifierFigures(len(used), bool(alone), precision, recall)


def _kappa_interval(
    ids: Sequence[str], labels: Sequence[bool], verdicts: Sequence[bool], settings: ValidationSettings
) -> tuple[float, float]:
    """Percentile interval at 95 %; whole instructions are drawn, as answers to one share its checks."""
    groups: dict[str, list[int]] = {}
    for index, item_id in enumerate(ids):
        groups.setdefault(item_id, []).append(index)
    members = list(groups.values())
    if not members:
        raise DataError("there are no labelled answers", hint="scorers are validated on labelled answers before use")
    generator = np.random.default_rng(settings.seed)
    found = []
    for _ in range(settings.num_resamples):
        drawn = [i for g in generator.integers(0, len(members), len(members)) for i in members[g]]
        found.append(cohens_kappa([labels[i] for i in drawn], [verdicts[i] for i in drawn]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _reasons(verdicts: Mapping[str, Mapping[str, Any]]) -> str:
    return "; ".join(f"{name}: {verdict['reason']}" for name, verdict in verdicts.items())
