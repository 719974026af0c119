"""Is a run of policy optimisation healthy? Figures of each step, alarms with evidence, and when to stop.

The loss says nothing here (with one update per rollout it is near 0), so other figures are watched. A rule looks at
medians over a window of steps, is raised only when it holds for several steps in a row, and falls again only when it
fails for as many: one noisy step neither stops a run nor hides an illness. What is not finite stops at once, for it is
not noise. Rules that compare with the start of the run wait until the start is over.

Source of the rules: what known runs died of (huggingface/trl#3452, open-instruct#1473, arXiv 2503.20783); the limits
are ours and stand in the settings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from rung.train.advantages import Advantages
from rung.train.importance import Mismatch
from rung.train.policy import PolicyFigures
from rung.train.rollout_settings import HealthSettings, Rule

__all__ = ["Alarm", "Diagnosis", "Evidence", "HealthMonitor", "HealthSettings", "Outcome", "StepHealth", "step_health"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one sampled answer; `right` is None where the verifier abstained."""

    num_tokens: int
    right: bool | None
    truncated: bool = False
    parsed: bool = True


@dataclass(frozen=True, slots=True)
class StepHealth:
    """The figures of one step; None where there is nothing to measure. Lengths are in tokens, the rest in nats per
    token, shares, or the reward's own unit."""

    step: int
    loss: float
    grad_norm: float
    reward_mean: float | None
    reward_spread: float | None
    mixed_share: float
    entropy: float | None
    kl: float | None
    drift: float
    ratio: float
    ratio_max: float
    clipped_low: float
    clipped_high: float
    capped: float
    mismatch: float | None
    mismatch_max: float | None
    length_right: float | None
    length_wrong: float | None
    truncated: float
    unparsable: float
    abstained: float
    kl_coefficient: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """One figure that a rule looked at, and what it was held against."""

    figure: str
    value: float
    limit: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """A rule that holds: since which step, up to which, and on what evidence (that of the last step it held)."""

    rule: Rule
    since: int
    step: int
    evidence: tuple[Evidence, ...]

    @property
    def message(self) -> str:
        """In words, with every number."""
        shown = ", ".join(f"{one.figure} {one.value:.4g} (limit {one.limit:.4g})" for one in self.evidence)
        return f"{self.rule} since step {self.since}: {shown}"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The alarms that are raised after a step, and the one that stops the run, if any."""

    alarms: tuple[Alarm, ...]
    stop: Alarm | None


class HealthMonitor:
    """Watches a run, step by step; the same steps always give the same diagnosis.

    A resumed run observes the steps that it already had again, and stands where it stood.
    """

    def __init__(self, settings: HealthSettings) -> None:
        self.settings = settings
        self._start: list[StepHealth] = []
        self._recent: list[StepHealth] = []
        self._watches = {rule: _Watch() for rule in _RULES}

    def observe(self, health: StepHealth) -> Diagnosis:
        """Take one more step into account."""
        broken = _not_finite(health)
        if broken:
            fatal = Alarm("not_finite", health.step, health.step, broken)
            return Diagnosis((fatal,), fatal)
        size = self.settings.window
        if len(self._start) < size:
            self._start.append(health)
        self._recent = [*self._recent, health][-2 * size :]
        view = _View(self._start, self._recent, self.settings)
        alarms = [
            alarm
            for rule, evidence_of in _RULES.items()
            if (alarm := self._watches[rule].update(rule, health.step, evidence_of(view), self.settings.patience))
        ]
        stopping = (one for one in alarms if one.rule in self.settings.stop_on and self._stops(one.rule))
        return Diagnosis(tuple(alarms), next(stopping, None))

    def _stops(self, rule: Rule) -> bool:
        return self._watches[rule].stops(self.settings.stop_after)


def step_health(
    step: int,
    outcomes: Sequence[Outcome],
    rewards: Sequence[float | None],
    *,
    figures: PolicyFigures,
    credit: Advantages,
    mismatch: Mismatch | None,
    loss: float,
    grad_norm: float,
) -> StepHealth:
    """The figures of a step from what its parts returned; `outcomes` and `rewards` are those of every sample."""
    given = [reward for reward in rewards if reward is not None]
    return StepHealth(
        step=step,
        loss=loss,
        grad_norm=grad_norm,
        reward_mean=fmean(given) if given else None,
        reward_spread=stdev(given) if len(given) > 1 else None,
        mixed_share=credit.mixed_share,
        entropy=figures.entropy,
        kl=figures.kl,
        drift=figures.drift,
        ratio=figures.ratio,
        ratio_max=figures.ratio_max,
        clipped_low=figures.clipped_low,
        clipped_high=figures.clipped_high,
        capped=figures.capped,
        mismatch=mismatch.kl if mismatch else None,
        mismatch_max=mismatch.max_log if mismatch else None,
        length_right=_mean_length(outcomes, True),
        length_wrong=_mean_length(outcomes, False),
        truncated=_share([outcome.truncated for outcome in outcomes]),
        unparsable=_share([not outcome.parsed for outcome in outcomes]),
        abstained=_share([reward is None for reward in rewards]),
    )


@dataclass
class _Watch:
    """The memory of one rule: for how many steps it held or failed in a row, and the alarm's age in steps."""

    held_for: int = 0
    failed_for: int = 0
    age: int = 0
    since: int = 0
    raised: Alarm | None = None

    def update(self, rule: Rule, step: int, evidence: tuple[Evidence, ...] | None, patience: int) -> Alarm | None:
        """The alarm if it is raised after this step."""
        if evidence is None:
            self.held_for, self.failed_for, self.age = 0, self.failed_for + 1, self.age + 1
            self.raised = None if self.failed_for >= patience else self.raised
            return self.raised
        if self.held_for == 0 and self.raised is None:
            self.since, self.age = step, 0
        self.held_for, self.failed_for, self.age = self.held_for + 1, 0, self.age + 1
        if self.held_for >= patience or self.raised:
            self.raised = Alarm(rule, self.since, step, evidence)
        return self.raised

    def stops(self, stop_after: int) -> bool:
        """Whether the alarm is old enough to stop a run, and holds at this very step."""
        return self.raised is not None and self.failed_for == 0 and self.age >= stop_after


@dataclass(frozen=True, slots=True)
class _View:
    """What rules look at: the first window of the run, and the last two."""

    start: Sequence[StepHealth]
    recent: Sequence[StepHealth]
    settings: HealthSettings

    def now(self, figure: str) -> float | None:
        """The median over the last window."""
        return self._median(self.recent[-self.settings.window :], figure)

    def before(self, figure: str) -> float | None:
        """The median over the window before the last."""
        return self._median(self.recent[: -self.settings.window], figure)

    def at_start(self, figure: str) -> float | None:
        """The median over the first window; None until a second one is full."""
        over = len(self.recent) == 2 * self.settings.window
        return self._median(self.start, figure) if over else None

    def _median(self, steps: Sequence[StepHealth], figure: str) -> float | None:
        """None with fewer than half a window of values."""
        values = [value for value in (getattr(step, figure) for step in steps) if value is not None]
        whole = len(steps) == self.settings.window and 2 * len(values) >= self.settings.window
        return median(values) if whole else None


def _entropy_collapse(view: _View) -> tuple[Evidence, ...] | None:
    now, start = view.now("entropy"), view.at_start("entropy")
    reward, before, spread = view.now("reward_mean"), view.before("reward_mean"), view.at_start("reward_spread")
    if now is None or start is None or reward is None or before is None:
        return None
    least, gain = view.settings.entropy_fraction * start, view.settings.flat_gain * (spread or 0.0)
    if now >= least or reward - before > gain:
        return None
    return Evidence("entropy", now, least), Evidence("gain of reward_mean", reward - before, gain)


def _wrong_answers_grow(view: _View) -> tuple[Evidence, ...] | None:
    wrong, wrong_start = view.now("length_wrong"), view.at_start("length_wrong")
    right, right_start = view.now("length_right"), view.at_start("length_right")
    if wrong is None or wrong_start is None or right is None or right_start is None:
        return None
    wrong_limit, right_limit = view.settings.wrong_growth * wrong_start, view.settings.right_growth * right_start
    if wrong <= wrong_limit or right >= right_limit:
        return None
    return Evidence("length_wrong", wrong, wrong_limit), Evidence("length_right", right, right_limit)


def _mismatch_grows(view: _View) -> tuple[Evidence, ...] | None:
    now, start = view.now("mismatch"), view.at_start("mismatch")
    if now is None or start is None:
        return None
    limit = max(view.settings.mismatch_growth * start, view.settings.mismatch_floor)
    return (Evidence("mismatch", now, limit),) if now > limit else None


def _dead_groups(view: _View) -> tuple[Evidence, ...] | None:
    now, limit = view.now("mixed_share"), view.settings.mixed_share
    return (Evidence("mixed_share", now, limit),) if now is not None and now < limit else None


def _above(figure: str, limit_of: Callable[[HealthSettings], float]) -> Callable[[_View], tuple[Evidence, ...] | None]:
    def rule(view: _View) -> tuple[Evidence, ...] | None:
        """The figure's median is above its limit."""
        now, limit = view.now(figure), limit_of(view.settings)
        return (Evidence(figure, now, limit),) if now is not None and now > limit else None

    return rule


_RULES: dict[Rule, Callable[[_View], tuple[Evidence, ...] | None]] = {
    "entropy_collapse": _entropy_collapse,
    "truncated": _above("truncated", lambda settings: settings.truncated_share),
    "wrong_answers_grow": _wrong_answers_grow,
    "dead_groups": _dead_groups,
    "kl_runaway": _above("kl", lambda settings: settings.kl_limit),
    "mismatch_grows": _mismatch_grows,
    "unparsable": _above("unparsable", lambda settings: settings.unparsable_share),
    "abstained": _above("abstained", lambda settings: settings.abstained_share),
}


def _not_finite(health: StepHealth) -> tuple[Evidence, ...]:
    values = ((field.name, getattr(health, field.name)) for field in dataclasses.fields(health))
    return tuple(Evidence(name, value, math.inf) for name, value in values if not math.isfinite(value or 0.0))


def _mean_length(outcomes: Sequence[Outcome], right: bool) -> float | None:
    lengths = [outcome.num_tokens for outcome in outcomes if outcome.right is right]
    return fmean(lengths) if lengths else None


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
