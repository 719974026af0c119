"""Quality control while a run goes on: figures at every so many generations, and an early end on evidence alone.

Sources: Wilson's interval for shares; the order-statistic (binomial) interval for a median.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import special

from rung.base.proportions import wilson_interval
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.qc import QcFigures, QcVerdict, Rate, Thresholds, decide, figures
from rung.records.types import Candidate, Instruction

__all__ = ["Checkpoint", "ProgressiveQc", "ProgressiveQcSettings", "certain_failures"]


class ProgressiveQcSettings(BaseSettings):
    """When to look, and when to stop."""

    every: int = Field(default=100, ge=10, description="generated responses between two checkpoints")
    abort: bool = Field(default=False, description="end the run early when failure is certain enough")
    min_samples: int = Field(default=50, ge=10, description="fewer samples than this are no evidence")
    confidence: float = Field(default=0.99, gt=0.5, lt=1, description="of the interval that must lie beyond the limit")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Figures after `num_generated` responses; `abort` names thresholds with evidence of failure, in words."""

    num_generated: int
    figures: QcFigures
    verdict: QcVerdict
    abort: tuple[str, ...]


class ProgressiveQc:
    """Collects records as they are decided and looks at them at fixed counts.

    The checkpoints depend on the records alone, not on the sizes of the pieces they came in. Evidence is looked for in
    everything so far and in what came since the last checkpoint: a model that turns bad late shows there first.
    """

    def __init__(self, settings: ProgressiveQcSettings, thresholds: Thresholds, advisory: Mapping[str, str]) -> None:
        self.settings, self._thresholds, self._advisory = settings, thresholds, dict(advisory)
        self._instructions: list[Instruction] = []
        self._candidates: list[Candidate] = []
        self._next = settings.every

    def add(self, instructions: Sequence[Instruction], candidates: Sequence[Candidate]) -> list[Checkpoint]:
        """Take in a piece of work; returns the checkpoints that were passed, usually none or one."""
        self._instructions += instructions
        self._candidates += candidates
        passed = []
        while len(self._candidates) >= self._next:
            passed.append(self._look(self._next))
            self._next += self.settings.every
        return passed

    def final(self) -> Checkpoint:
        """The figures of all records: what the finished stage reports too."""
        return self._checkpoint(len(self._instructions), len(self._candidates), ())

    def _look(self, count: int) -> Checkpoint:
        start = count - self.settings.every
        before, until = self._num_instructions(start), self._num_instructions(count)
        so_far = self._evidence(self._instructions[:until], self._candidates[:count])
        lately = self._evidence(self._instructions[before:until], self._candidates[start:count])
        return self._checkpoint(until, count, tuple(dict.fromkeys([*so_far, *lately])))

    def _num_instructions(self, count: int) -> int:
        """How many instructions had been seen when candidate `count` was made: up to the last one answered by then."""
        places = {item.id: place for place, item in enumerate(self._instructions, 1)}
        return max((places.get(c.instruction_id, 0) for c in self._candidates[:count]), default=0)

    def _evidence(self, instructions: Sequence[Instruction], candidates: Sequence[Candidate]) -> list[str]:
        found = figures(instructions, candidates, thresholds=self._thresholds)
        tokens = [c.num_response_tokens for c in candidates if c.outcome == "kept"]
        certain = certain_failures(found, tokens, self._thresholds, self.settings)
        return [text for name, text in certain.items() if name not in self._advisory]

    def _checkpoint(self, until: int, count: int, abort: tuple[str, ...]) -> Checkpoint:
        found = figures(self._instructions[:until], self._candidates[:count], thresholds=self._thresholds)
        return Checkpoint(count, found, decide(found, self._thresholds, self._advisory), abort)


def certain_failures(
    found: QcFigures, tokens: Sequence[int], limits: Thresholds, settings: ProgressiveQcSettings
) -> dict[str, str]:
    """Thresholds that the records so far miss by more than chance explains: name -> evidence in words.

    A rate counts when its Wilson interval lies wholly beyond the limit, a median when its order-statistic interval
    does, and a forbidden thing (a leak) once there were enough samples: it will not go away.
    """
    certain: dict[str, str] = {}
    upper = (("max_runaway_rate", found.runaway, limits.max_runaway_rate),)
    for name, rate, limit in (*upper, ("max_limit_rate", found.limit, limits.max_limit_rate)):
        low, _ = _wilson(rate, settings)
        if low >= limit:
            certain[name] = f"{name}: {rate.count} of {rate.total}, at least {low:.1%}, limit {limit:.1%}"
    for name, rate, least in (
        ("min_instruction_acceptance", found.instruction_acceptance.rate, limits.min_instruction_acceptance),
        ("min_pair_acceptance", found.pair_acceptance.rate, limits.min_pair_acceptance),
    ):
        _, high = _wilson(rate, settings)
        if high < least:
            certain[name] = f"{name}: {rate.count} of {rate.total}, at most {high:.1%}, limit {least:.1%}"
    if len(tokens) >= settings.min_samples:
        place = math.ceil(special.bdtrik((1 - settings.confidence) / 2, len(tokens), 0.5))  # quantile of the sign test
        low = float(sorted(tokens)[max(0, place - 1)])
        if low >= limits.max_median_tokens:
            certain["max_median_tokens"] = (
                f"max_median_tokens: median at least {low:g} over {len(tokens)}, limit {limits.max_median_tokens:g}"
            )
        if len(found.leak_ids) > limits.max_leaks:
            certain["max_leaks"] = f"max_leaks: {len(found.leak_ids)} kept responses hold a delimiter"
    return certain


def _wilson(rate: Rate, settings: ProgressiveQcSettings) -> tuple[float, float]:
    if rate.total < settings.min_samples:
        return 0.0, 1.0
    return wilson_interval(rate.count, rate.total, settings.confidence)
