"""A critic proves itself on known-good pairs against corrupted ones, or it gates nothing.

`calibrate` measures; its report goes into the manifest of whatever the critic gates. `choose` applies the written rule
to the critic and the fallback that a recipe names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rung.base.errors import DataError, GateFailed, SettingsError
from rung.base.proportions import wilson_interval
from rung.base.seeds import derive, stream
from rung.base.settings import Field, Settings, nearest
from rung.records.contracts import Item, Score, Trace
from rung.scoring.calibration_report import (
    Acceptance,
    CalibrationReport,
    Chosen,
    CrossFit,
    Interval,
    KindFigures,
    MarginRow,
    PositionBias,
    Verdict,
)
from rung.scoring.corruptions import INSTRUCTION_KINDS, PAIR_KINDS, Corrupted, Target, corrupt
from rung.scoring.critic import Critic, Swappable
from rung.scoring.discrimination import Auc, Judgements, auc, precision_at, threshold_for
from rung.scoring.known_pairs import KnownPair

__all__ = ["CalibrationSettings", "calibrate", "choose", "mandated_kinds"]

_NOT_SEEN = ("truncated",)
_NUM_MARGIN_ROWS = 10


class CalibrationSettings(Settings):
    """What a critic must show before it may gate.

    `least_auc` 0.6 is a difference of 0.36 standard deviations: keeping the better half by such a critic lifts the
    share of good answers from 50 % to 57 %. Less is not worth a filter's cost in data.
    """

    target: Target = Field(default="pair", description="what is corrupted: responses, or instructions")
    mandated: tuple[str, ...] = Field(
        default=(),
        description="kinds the critic must tell from good; empty: all but truncated, which other rules catch",
    )
    least_auc: float = Field(
        default=0.6, ge=0.5, lt=1, description="lower end of the AUC's interval, each mandated kind"
    )
    least_pairs: int = Field(default=30, ge=2, description="fewer known pairs than this decide nothing")
    precision: float = Field(default=0.9, gt=0, lt=1, description="target for choosing the threshold")
    good_share: float = Field(default=0.5, gt=0, lt=1, description="expected share of good among what will be judged")
    least_recall: float = Field(
        default=0.3, ge=0, le=1, description="share of good answers that must pass the threshold"
    )
    num_folds: int = Field(default=5, ge=2, description="folds for figures that the chosen threshold has not seen")
    num_resamples: int = Field(default=2000, ge=100, description="bootstrap resamples of the pairs")


def mandated_kinds(settings: CalibrationSettings) -> tuple[str, ...]:
    """The kinds that decide the verdict.

    Raises:
        SettingsError: a kind that does not exist for this target.
    """
    known = list(PAIR_KINDS if settings.target == "pair" else INSTRUCTION_KINDS)
    for name in settings.mandated:
        if name not in known:
            raise SettingsError(
                f"no corruption is called '{name}'", place="calibration.mandated", hint=nearest(name, known)
            )
    return settings.mandated or tuple(kind for kind in known if kind not in _NOT_SEEN)


def calibrate(
    critic: Critic, pairs: Sequence[KnownPair], settings: CalibrationSettings, seed: int
) -> CalibrationReport:
    """Measure a critic on known-good pairs and their corruptions.

    Raises:
        DataError: fewer than two pairs, or a mandated corruption that applies to fewer than two of them.
        SettingsError: a mandated kind that does not exist.
    """
    kinds = mandated_kinds(settings)
    bad = corrupt(pairs, seed, settings.target)
    _refuse_too_little(pairs, bad, kinds)
    judged: list[KnownPair | Corrupted] = [*pairs, *bad]
    items = [Item(f"calibration-{number}", one.instruction, one.type) for number, one in enumerate(judged)]
    traces = [Trace(item.id, one.response) for item, one in zip(items, judged, strict=True)]
    scores = critic.score(items, traces)
    judgements = _judgements(scores, bad, len(pairs))
    required = judgements.kinds(kinds)
    threshold = threshold_for(required, settings.precision, settings.good_share)
    decisions = _cross_fitted(judgements, kinds, settings, seed)
    figures = _kind_figures(judgements, decisions, kinds, settings, seed)
    cross_fit = _cross_fit(decisions, kinds, settings, seed)
    good_items, good_traces = items[: len(pairs)], traces[: len(pairs)]
    position = _position(critic, good_items, good_traces) if isinstance(critic, Swappable) else None
    record = dict(critic.record())
    return CalibrationReport(
        critic=str(record["critic"]),
        record=record,
        target=settings.target,
        settings=settings.model_dump(mode="json"),
        seed=seed,
        num_pairs=len(pairs),
        num_bad=len(bad),
        num_abstained_good=sum(score.abstained for score in scores[: len(pairs)]),
        num_abstained_bad=sum(score.abstained for score in scores[len(pairs) :]),
        kinds=figures,
        overall=_interval(auc(required, seed, settings.num_resamples)),
        by_margin=_margin_rows(required, settings.good_share),
        threshold=threshold,
        cross_fit=cross_fit,
        position=position,
        verdict=_verdict(figures, threshold, cross_fit, settings, len(pairs)),
    )


def choose(reports: Sequence[CalibrationReport], force: str = "") -> Chosen:
    """The written rule: the first critic, in the order the recipe names them, whose verdict lets it gate.

    `force` names a critic that gates whatever its verdict; that lands in the answer, for every manifest downstream.

    Raises:
        GateFailed: none may gate and none is forced.
        SettingsError: the forced critic was not calibrated.
    """
    names = [report.critic for report in reports]
    if force and force not in names:
        raise SettingsError(
            f"cannot force '{force}': it was not calibrated", place="--force", hint=nearest(force, names)
        )
    passed_over: list[str] = []
    for index, report in enumerate(reports):
        if force and report.critic != force:
            passed_over.append(f"{report.critic}: passed over, '{force}' was forced")
        elif report.verdict.may_gate or force:
            return Chosen(
                critic=report.critic,
                index=index,
                threshold=report.threshold,
                forced=not report.verdict.may_gate,
                reasons=(*passed_over, *(f"{report.critic}: {reason}" for reason in report.verdict.reasons)),
            )
        else:
            passed_over += [f"{report.critic}: {reason}" for reason in report.verdict.reasons]
    raise GateFailed(
        "no critic may gate: " + ("; ".join(passed_over) or "none was calibrated"),
        hint="name a fallback (fallback: information_gain), judge with a larger model, or go on knowingly with "
        f"--force {names[0] if names else 'CRITIC'}",
    )


def _refuse_too_little(pairs: Sequence[KnownPair], bad: Sequence[Corrupted], kinds: Sequence[str]) -> None:
    if len(pairs) < 2:
        raise DataError(f"{len(pairs)} known pairs cannot calibrate a critic", hint="give at least 30")
    for kind in kinds:
        if (number := sum(one.kind == kind for one in bad)) < 2:
            raise DataError(
                f"the corruption '{kind}' applies to {number} of {len(pairs)} pairs", hint="give longer pairs"
            )


def _judgements(scores: Sequence[Score], bad: Sequence[Corrupted], num_pairs: int) -> Judgements:
    values = np.array([_deciding(score) for score in scores], dtype=np.float64)
    by_kind = {kind: np.full(num_pairs, np.nan) for kind in dict.fromkeys(one.kind for one in bad)}
    for one, value in zip(bad, values[num_pairs:], strict=True):
        by_kind[one.kind][one.source] = value
    return Judgements(values[:num_pairs], by_kind)


def _deciding(score: Score) -> float:
    """What a threshold is held against: less the rubric's own extra margin; an abstention is never accepted."""
    if score.value is None:
        return -math.inf
    moved = score.value - score.components.get("extra_margin", 0.0)
    return moved if score.value > 0 else min(score.value, moved)


def _cross_fitted(judgements: Judgements, kinds: Sequence[str], settings: CalibrationSettings, seed: int) -> Judgements:
    """1.0 (accepted) or 0.0 for every answer, each decided by a threshold chosen without its own pair."""
    number = len(judgements.good)
    order = stream(seed, "folds").sample(range(number), number)
    good = np.zeros(number)
    bad = {kind: np.where(np.isnan(values), np.nan, 0.0) for kind, values in judgements.bad.items()}
    for fold in range(min(settings.num_folds, number)):
        held = np.array(order[fold :: settings.num_folds], dtype=np.int64)
        rest = np.array(sorted(set(order) - set(held.tolist())), dtype=np.int64)
        found = threshold_for(judgements.of(rest).kinds(kinds), settings.precision, settings.good_share)
        if found is None:
            continue
        good[held] = _accepted(judgements.good[held], found)
        for kind, values in judgements.bad.items():
            bad[kind][held] = np.where(np.isnan(values[held]), np.nan, _accepted(values[held], found))
    return Judgements(good, bad)


def _accepted(values: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    accepted: NDArray[np.float64] = ((values > 0) & (values >= threshold)).astype(np.float64)
    return accepted


def _kind_figures(
    judgements: Judgements, decisions: Judgements, kinds: Sequence[str], settings: CalibrationSettings, seed: int
) -> dict[str, KindFigures]:
    return {
        kind: KindFigures(
            auc=_interval(auc(judgements.kinds([kind]), seed, settings.num_resamples)),
            accepted=_acceptance(decisions.bad[kind]),
            mandated=kind in kinds,
        )
        for kind in judgements.bad
    }


def _cross_fit(decisions: Judgements, kinds: Sequence[str], settings: CalibrationSettings, seed: int) -> CrossFit:
    required, number = decisions.kinds(kinds), len(decisions.good)
    precision, _ = precision_at(required, 0.5, settings.good_share)
    random_stream = np.random.default_rng(derive(seed, "cross-fit"))
    drawn = [
        precision_at(required.of(random_stream.integers(0, number, number)), 0.5, settings.good_share)[0]
        for _ in range(settings.num_resamples)
    ]
    finite = [value for value in drawn if not math.isnan(value)]
    ends = np.quantile(finite, [0.025, 0.975]) if finite else (0.0, 1.0)
    interval = None if math.isnan(precision) else Interval(value=precision, low=float(ends[0]), high=float(ends[1]))
    bad = np.concatenate([required.bad[kind] for kind in kinds])
    return CrossFit(precision=interval, good=_acceptance(decisions.good), bad=_acceptance(bad))


def _acceptance(decisions: NDArray[np.float64]) -> Acceptance:
    there = decisions[~np.isnan(decisions)]
    accepted = int(there.sum())
    low, high = wilson_interval(accepted, len(there))
    return Acceptance(num_accepted=accepted, num_judged=len(there), low=low, high=high)


def _interval(found: Auc) -> Interval:
    return Interval(value=found.value, low=found.low, high=found.high)


def _margin_rows(judgements: Judgements, good_share: float) -> tuple[MarginRow, ...]:
    """Precision and recall from one margin on, over the margins that good answers really have."""
    positive = judgements.good[np.isfinite(judgements.good) & (judgements.good > 0)]
    shares = np.arange(_NUM_MARGIN_ROWS) / _NUM_MARGIN_ROWS
    levels = [float(level) for level in np.quantile(positive, shares)] if len(positive) else []
    rows = []
    for threshold in dict.fromkeys([0.0, *levels]):
        precision, recall = precision_at(judgements, threshold, good_share)
        rows.append(
            MarginRow(
                threshold=threshold,
                precision=None if math.isnan(precision) else precision,
                recall=recall,
                num_good=int(_accepted(judgements.good, threshold).sum()),
                num_bad=int(sum(_accepted(values, threshold).sum() for values in judgements.bad.values())),
            )
        )
    return tuple(rows)


def _position(critic: Swappable, items: Sequence[Item], traces: Sequence[Trace]) -> PositionBias:
    orders = critic.both_orders(items, traces)
    written, exchanged = np.array(orders.as_written), np.array(orders.exchanged)
    flips = int(np.sum((written > 0) != (exchanged > 0)))
    low, high = wilson_interval(flips, len(written))
    return PositionBias(
        num_judged=len(written),
        num_flipped=flips,
        flip_low=low,
        flip_high=high,
        mean_shift=float(np.mean(written - exchanged) / 2),
        mean_margin=float(np.mean(written + exchanged) / 2),
    )


def _verdict(
    figures: dict[str, KindFigures],
    threshold: float | None,
    cross_fit: CrossFit,
    settings: CalibrationSettings,
    num_pairs: int,
) -> Verdict:
    reasons = []
    if num_pairs < settings.least_pairs:
        reasons.append(f"{num_pairs} pairs are too few to decide ({settings.least_pairs} needed)")
    for kind, found in figures.items():
        if found.mandated and found.auc.low <= settings.least_auc:
            reasons.append(
                f"AUC against {kind} {found.auc.value:.2f} [{found.auc.low:.2f}, {found.auc.high:.2f}], "
                f"lower end not above {settings.least_auc:g}"
            )
    recall = cross_fit.good.num_accepted / cross_fit.good.num_judged
    if threshold is None:
        reasons.append(f"no threshold reaches a precision of {settings.precision:g}")
    elif recall < settings.least_recall:
        reasons.append(f"accepts {recall:.0%} of good answers at its threshold, under {settings.least_recall:.0%}")
    if reasons:
        return Verdict(may_gate=False, reasons=tuple(reasons))
    lowest = min(found.auc.low for found in figures.values() if found.mandated)
    return Verdict(
        may_gate=True, reasons=(f"every mandated AUC is above {settings.least_auc:g} (lowest end {lowest:.2f})",)
    )
