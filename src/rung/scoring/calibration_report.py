"""What a calibration found, as it stands in manifests: every figure with its n and an interval."""

from __future__ import annotations

from typing import Any

import pydantic

__all__ = [
    "Acceptance",
    "CalibrationReport",
    "Chosen",
    "CrossFit",
    "Interval",
    "KindFigures",
    "MarginRow",
    "PositionBias",
    "Verdict",
]


class _Figures(pydantic.BaseModel):
    """Frozen, nothing unknown, no NaN: it reads back from a manifest to what was written."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(_Figures):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


class Acceptance(_Figures):
    """How many were accepted of how many judged, with Wilson's 95 % interval of the share."""

    num_accepted: int
    num_judged: int
    low: float
    high: float


class KindFigures(_Figures):
    """One kind of corruption: AUC against the good answers, and how many the cross-fitted threshold lets through."""

    auc: Interval
    accepted: Acceptance
    mandated: bool


class MarginRow(_Figures):
    """Accepting from `threshold` on: precision at the expected share of good answers, recall, and the counts."""

    threshold: float
    precision: float | None
    recall: float
    num_good: int
    num_bad: int


class CrossFit(_Figures):
    """Figures at thresholds chosen without the answers they are applied to; precision is None when none is accepted."""

    precision: Interval | None
    good: Acceptance
    bad: Acceptance


class PositionBias(_Figures):
    """What exchanging the labels does to good answers.

    `num_flipped` verdicts change with the order (Wilson's interval of the share beside it); `mean_shift` is how many
    nats the first letter is preferred by whatever it stands for, `mean_margin` what is left for the answer itself.
    """

    num_judged: int
    num_flipped: int
    flip_low: float
    flip_high: float
    mean_shift: float
    mean_margin: float


class Verdict(_Figures):
    """Whether the critic may gate, and why (not)."""

    may_gate: bool
    reasons: tuple[str, ...]


class CalibrationReport(_Figures):
    """One critic's measured quality.

    `kinds` are the corruptions, `overall` the AUC over the mandated ones with equal weight, `threshold` the margin
    chosen on all pairs (None: no threshold reaches the target), `cross_fit` the honest figures at such a choice.
    """

    critic: str
    record: dict[str, Any]
    target: str
    settings: dict[str, Any]
    seed: int
    num_pairs: int
    num_bad: int
    num_abstained_good: int
    num_abstained_bad: int
    kinds: dict[str, KindFigures]
    overall: Interval
    by_margin: tuple[MarginRow, ...]
    threshold: float | None
    cross_fit: CrossFit
    position: PositionBias | None
    verdict: Verdict


class Chosen(_Figures):
    """Which critic gates, at which threshold (None: the one in its own settings), and why; `forced` is a bypass."""

    critic: str
    index: int
    threshold: float | None
    forced: bool
    reasons: tuple[str, ...]
