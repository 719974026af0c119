"""At learning rate 0 an update changes nothing: neither the weights nor how far the trainer is from its sampler.

Runs in which the gap grew without a step being taken derailed hundreds of steps later (open-instruct#1473, verl#2996).
Rounds of sampling and updating at rate 0, on the network's vectors; the weights must stay to the bit and the mismatch
within the tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, not_applicable, verdict
from rung.pipeline.checks._nudged import trained_vectors
from rung.pipeline.checks._sampled import sampled_logs, sampled_rollouts
from rung.pipeline.checks._subject import Subject

__all__ = ["RolloutDrift"]


class RolloutDriftSettings(BaseSettings):
    """How long, and how close is the same."""

    num_rounds: int = Field(2, ge=1, le=100, description="updates at learning rate 0")
    num_tokens: int = Field(6, ge=1, description="tokens sampled for each prompt")
    tolerance: float = Field(2e-3, gt=0, description="largest log-ratio of trainer to sampler, in nats")


class RolloutDrift(Check):
    """Samples and updates, and updates nothing."""

    Settings = RolloutDriftSettings
    guards = "rollouts and trainer that drift apart without a step"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """Round after round, with one engine."""
        network, engine = subject.loaded.network, subject.engine(subject.loaded)
        gaps: list[float] = []
        problems: list[str] = []
        with trained_vectors(network) as chosen:
            before = [parameter.detach().clone() for parameter in chosen]
            for number in range(self.settings.num_rounds + 1):
                rollouts = sampled_rollouts(subject, engine, self.settings.num_tokens)
                if rollouts is None:
                    return not_applicable("this network's own cache cannot say which tokens could be drawn")
                gaps.append(max(map(abs, sampled_logs(subject, rollouts))))
                subject.policy.rest(engine)
                if number < self.settings.num_rounds:
                    subject.policy.step(network, rollouts, 0.0)
            if num_moved := _num_moved(chosen, before):
                problems.append(f"{num_moved} of {len(chosen)} vectors moved at learning rate 0")
        if not max(gaps) <= self.settings.tolerance:
            shown = ", ".join(f"{gap:.1e}" for gap in gaps)
            problems.append(f"the largest log-ratio of trainer to sampler went {shown} over the rounds")
        return verdict(problems, f"{self.settings.num_rounds} updates at rate 0: no bit moved, gap {max(gaps):.1e}")


def _num_moved(chosen: Sequence[nn.Parameter], before: Sequence[Tensor]) -> int:
    return sum(not bool((parameter == value).all()) for parameter, value in zip(chosen, before, strict=True))
