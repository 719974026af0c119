"""Trainer and sampler give the same sampled token the same probability as long as they have the same weights.

A trainer that renormalises over other tokens than could be drawn (top-k, top-p, a grammar), or leaves the temperature
out, multiplies every gradient by a factor that no curve shows (TRL#6789: 0.9 under top-p 0.9; TRL#4159). Sampled here
at a temperature, with top-p: the ratio must be 1.
"""

from __future__ import annotations

import math

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, not_applicable, verdict
from rung.pipeline.checks._sampled import sampled_logs, sampled_rollouts
from rung.pipeline.checks._subject import Subject

__all__ = ["SamplingRatio"]


class SamplingRatioSettings(BaseSettings):
    """How close is the same, and how much is sampled."""

    tolerance: float = Field(2e-3, gt=0, description="largest log-ratio of a sampled token, in nats")
    num_tokens: int = Field(8, ge=1, description="tokens sampled for each prompt")


class SamplingRatio(Check):
    """Samples, and asks the trainer about it."""

    Settings = SamplingRatioSettings
    guards = "a trainer whose distribution is not the sampler's"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """Token by token."""
        rollouts = sampled_rollouts(subject, subject.engine(subject.loaded), self.settings.num_tokens)
        if rollouts is None:
            return not_applicable("this network's own cache cannot say which tokens could be drawn")
        logs = sampled_logs(subject, rollouts)
        mean = math.fsum(math.exp(log) for log in logs) / len(logs)
        worst = max(logs, key=abs)
        problems = []
        if not abs(worst) <= self.settings.tolerance:
            problems.append(f"at equal weights the ratio is {mean:.3f} in the mean and {math.exp(worst):.3f} at worst")
        return verdict(problems, f"{len(logs)} sampled tokens, mean ratio {mean:.6f}, largest log {abs(worst):.1e}")
