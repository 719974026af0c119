"""Calibration reports as they stand in manifests, laid out for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pydantic

from rung.app.reports.shapes import walk
from rung.app.reports.svg import Band, Curve
from rung.base.errors import DataError
from rung.records.manifest import Manifest
from rung.scoring.calibration_report import CalibrationReport, Interval

__all__ = ["CriticCard", "KindRow", "critic_cards"]


@dataclass(frozen=True, slots=True)
class KindRow:
    """How a critic tells good answers from one kind of bad ones: `let_through` of `judged` bad ones are accepted."""

    kind: str
    auc: Band
    mandated: bool
    let_through: int
    judged: int


@dataclass(frozen=True, slots=True)
class CriticCard:
    """One critic's calibration. `trade` are precision and recall over the margin that is asked for."""

    stage: str
    critic: str
    target: str
    num_pairs: int
    num_bad: int
    overall: Band
    rows: tuple[KindRow, ...]
    threshold: float | None
    may_gate: bool
    reasons: tuple[str, ...]
    trade: tuple[Curve, ...]
    position: str


def critic_cards(manifests: Sequence[Manifest]) -> tuple[CriticCard, ...]:
    """Every calibration report of the run, once each, in the order of the stages.

    Raises:
        DataError: something that looks like a report and does not read back as one.
    """
    cards: dict[tuple[str, str, int], CriticCard] = {}
    for manifest in manifests:
        for path, values in walk(manifest.calibration):
            if not {"critic", "kinds", "overall", "verdict"} <= values.keys():
                continue
            report = _read(values, f"{manifest.name}: calibration.{'.'.join(path)}")
            cards.setdefault((report.critic, report.target, report.seed), _card(manifest.name, report))
    return tuple(cards.values())


def _read(values: Mapping[str, object], place: str) -> CalibrationReport:
    try:
        return CalibrationReport.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"not a calibration report: {first['loc']}: {first['msg']}", place=place) from error


def _card(stage: str, report: CalibrationReport) -> CriticCard:
    rows = [
        KindRow(name, _band(kind.auc), kind.mandated, kind.accepted.num_accepted, kind.accepted.num_judged)
        for name, kind in report.kinds.items()
    ]
    margins = report.by_margin
    precision = Curve("precision", tuple((m.threshold, m.precision) for m in margins if m.precision is not None), 0)
    recall = Curve("recall", tuple((m.threshold, m.recall) for m in margins), 1)
    bias = report.position
    return CriticCard(
        stage=stage,
        critic=report.critic,
        target=report.target,
        num_pairs=report.num_pairs,
        num_bad=report.num_bad,
        overall=_band(report.overall),
        rows=tuple(rows),
        threshold=report.threshold,
        may_gate=report.verdict.may_gate,
        reasons=report.verdict.reasons,
        trade=(precision, recall),
        position=""
        if bias is None
        else f"exchanging the labels flips {bias.num_flipped} of {bias.num_judged} verdicts on good answers "
        f"(interval {bias.flip_low:.0%} to {bias.flip_high:.0%}) and shifts the margin by {bias.mean_shift:.2f} nats",
    )


def _band(interval: Interval) -> Band:
    return Band(interval.value, interval.low, interval.high)
