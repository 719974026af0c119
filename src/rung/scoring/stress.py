"""A verifier is tried with replies whose verdict is known before reinforcement learning may earn by it.

`stress` judges right answers in many dresses, near misses and attacks, and says strong, weak or undecided by written
floors; `require_strong` refuses the rest by name, with the replies that were misjudged. The report goes into the
manifest of the run that relied on it (`as_json`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rung.base.errors import GateFailed
from rung.base.fingerprint import plain
from rung.base.proportions import wilson_interval
from rung.base.settings import Field, Settings
from rung.records.contracts import Item, Score, Scorer, Trace
from rung.scoring.stress_probes import ATTACKS, Probe, attacks, near_misses, right_replies

__all__ = ["Misjudged", "Share", "StressReport", "StressSettings", "require_strong", "stress"]

Verdict = Literal["strong", "weak", "undecided"]
_SHOWN_CHARACTERS = 160


class StressSettings(Settings):
    """What a verifier must show. Floors are held against the lower ends of 95 % Wilson intervals."""

    least_recall: float = Field(default=0.9, ge=0, le=1, description="right replies that are accepted")
    least_precision: float = Field(default=0.95, ge=0, le=1, description="accepted replies that are right")
    most_near_misses: float = Field(default=0.02, ge=0, le=1, description="share of near misses accepted")
    most_seconds: float = Field(default=5.0, gt=0, description="mean seconds per reply, over all of them")
    least_items: int = Field(default=10, ge=1, description="fewer items than this decide nothing")
    junk_items: int = Field(default=2, ge=1, description="items that are also tried with a megabyte of junk")
    leave_out: tuple[str, ...] = Field(default=(), description="kinds of right replies the instruction forbids")
    num_shown: int = Field(default=8, ge=1, le=50, description="misjudged replies kept in the report")


@dataclass(frozen=True, slots=True)
class Share:
    """A count with its Wilson interval; `abstained` and `raised` are those that got no verdict."""

    accepted: int
    number: int
    low: float
    high: float
    abstained: int = 0
    raised: int = 0

    @property
    def value(self) -> float:
        """Accepted over number; 0.0 of nothing."""
        return self.accepted / self.number if self.number else 0.0


@dataclass(frozen=True, slots=True)
class Misjudged:
    """A reply that got the wrong verdict, cut short."""

    instruction: str
    kind: str
    reply: str
    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class StressReport:
    """What was found. `precision` is over the probes, of which `num_right` were right; no claim about real traffic."""

    scorer: str
    verdict: Verdict
    reasons: tuple[str, ...]
    num_items: int
    num_right: int
    recall: Share
    precision: Share
    near_misses: Share
    attacks: Share
    kinds: dict[str, Share]
    misjudged: tuple[Misjudged, ...]
    left_out: tuple[str, ...]
    seconds: float
    slowest_seconds: float

    @property
    def strong(self) -> bool:
        """Whether rewards may rest on it."""
        return self.verdict == "strong"

    def as_json(self) -> dict[str, Any]:
        """As JSON types, for a manifest."""
        return dict(plain(self))


@dataclass(frozen=True, slots=True)
class _Judged:
    probe: Probe
    score: Score | None
    problem: str
    seconds: float

    @property
    def accepted(self) -> bool:
        return self.score is not None and (self.score.value or 0.0) > 0.5

    @property
    def abstained(self) -> bool:
        return self.score is not None and self.score.value is None

    @property
    def reason(self) -> str:
        return self.problem if self.score is None else self.score.reason


def stress(name: str, scorer: Scorer, items: Sequence[Item], settings: StressSettings | None = None) -> StressReport:
    """Try `scorer`, which is called `name`, on items with reference answers.

    Raises:
        DataError: an item without a reference answer.
    """
    settings = settings or StressSettings()
    judged = [_judge(scorer, probe) for probe in _probes(items, settings)]
    right = [one for one in judged if one.probe.right]
    misses = [one for one in judged if not one.probe.right and one.probe.kind not in ATTACKS]
    hostile = [one for one in judged if one.probe.kind in ATTACKS]
    accepted_right, accepted = sum(one.accepted for one in right), sum(one.accepted for one in judged)
    reasons, seconds = [], [one.seconds for one in judged]
    precision = Share(accepted_right, accepted, *wilson_interval(accepted_right, accepted))
    reasons += _below(_share(right), precision, _share(misses), settings)
    reasons += _attacked(hostile, judged)
    if sum(seconds) > settings.most_seconds * len(judged):
        reasons.append(f"{sum(seconds) / len(judged):.2f} s per reply, the limit is {settings.most_seconds:g}")
    undecided = len(items) < settings.least_items or not misses
    if undecided:
        reasons.insert(0, f"{len(items)} items and {len(misses)} near misses, {settings.least_items} items are needed")
    return StressReport(
        scorer=name,
        verdict="undecided" if undecided else "weak" if reasons else "strong",
        reasons=tuple(reasons),
        num_items=len(items),
        num_right=len(right),
        recall=_share(right),
        precision=precision,
        near_misses=_share(misses),
        attacks=_share(hostile),
        kinds={kind: _share([j for j in judged if j.probe.kind == kind]) for kind in _kinds(judged)},
        misjudged=_misjudged(judged, settings.num_shown),
        left_out=settings.leave_out,
        seconds=sum(seconds),
        slowest_seconds=max(seconds, default=0.0),
    )


def require_strong(report: StressReport) -> None:
    """Let nothing but a strong verifier pass.

    Raises:
        GateFailed: naming the verifier, what it missed, and replies that it misjudged.
    """
    if report.strong:
        return
    shown = [
        f"{'accepts' if one.accepted else 'refuses'} {one.kind} {one.reply[:60]!r} for {one.instruction[:60]!r}"
        for one in report.misjudged
    ]
    raise GateFailed(
        "\n  ".join([f"verifier '{report.scorer}' is {report.verdict}: {'; '.join(report.reasons)}", *shown]),
        hint="mend the verifier or the instruction's answer format; a reward that can be fooled will be",
    )


def _probes(items: Sequence[Item], settings: StressSettings) -> list[Probe]:
    probes = []
    for place, item in enumerate(items):
        others = [*items[place + 1 : place + 6], *items[: max(0, place + 6 - len(items))]]
        probes += [probe for probe in right_replies(item) if probe.kind not in settings.leave_out]
        probes += near_misses(item, others)
        probes += attacks(item, others, junk=place < settings.junk_items)
    return probes


def _judge(scorer: Scorer, probe: Probe) -> _Judged:
    start = time.perf_counter()
    try:
        score, problem = scorer.score([probe.item], [Trace(probe.item.id, probe.text)])[0], ""
    except Exception as error:  # noqa: BLE001 - whatever a reply can make it raise would end a training run
        score, problem = None, f"raised {type(error).__name__}: {error}"[:_SHOWN_CHARACTERS]
    return _Judged(probe, score, problem, time.perf_counter() - start)


def _below(recall: Share, precision: Share, misses: Share, settings: StressSettings) -> list[str]:
    reasons = []
    for word, share, floor in (
        ("recall", recall, settings.least_recall),
        ("precision", precision, settings.least_precision),
    ):
        if share.low < floor:
            reasons.append(f"{word} {share.value:.2f} [{share.low:.2f}, {share.high:.2f}], {floor:.2f} is needed")
    if misses.value > settings.most_near_misses:
        reasons.append(f"accepts {misses.accepted} of {misses.number} near misses")
    return reasons


def _attacked(hostile: Sequence[_Judged], judged: Sequence[_Judged]) -> list[str]:
    reasons = []
    for kind in ATTACKS:
        fooled = sum(one.accepted for one in hostile if one.probe.kind == kind)
        if fooled:
            reasons.append(f"accepts {fooled} attacks of kind {kind}")
    if raised := [one for one in judged if one.score is None]:
        reasons.append(f"raises on {len(raised)} replies, first {raised[0].probe.kind}: {raised[0].problem}")
    return reasons


def _share(judged: Sequence[_Judged]) -> Share:
    accepted = sum(one.accepted for one in judged)
    low, high = wilson_interval(accepted, len(judged))
    abstained, raised = sum(one.abstained for one in judged), sum(one.score is None for one in judged)
    return Share(accepted, len(judged), low, high, abstained, raised)


def _kinds(judged: Sequence[_Judged]) -> list[str]:
    return list(dict.fromkeys(one.probe.kind for one in judged))


def _misjudged(judged: Sequence[_Judged], number: int) -> tuple[Misjudged, ...]:
    """One of every kind first, attacks before the rest, so that one kind cannot hide the others."""
    wrong = [one for one in judged if one.accepted != one.probe.right]
    wrong.sort(key=lambda one: one.probe.kind in ATTACKS)
    first = {one.probe.kind: one for one in reversed(wrong)}
    ordered = [*first.values(), *(one for one in wrong if one is not first[one.probe.kind])]
    return tuple(
        Misjudged(
            one.probe.item.instruction[:_SHOWN_CHARACTERS],
            one.probe.kind,
            one.probe.text[:_SHOWN_CHARACTERS],
            one.accepted,
            one.reason[:_SHOWN_CHARACTERS],
        )
        for one in ordered[:number]
    )
