"""How far the policy is from its reference, and the coefficient that holds it at a target.

What is measured are the answers of a step's first draw, thrown away ones included. The groups that are trained on will
not do: refilling keeps mixed groups alone, so the rare answers of a policy that is nearly sure are far too many among
them, and each weighs its ratio to the reference (a policy 4.7 nats away read as 13). The mean log-ratio is used for the
same reason: at such distances k3 hangs on answers that are hardly ever drawn.

A fixed coefficient bounds nothing: what holds one task lets another go wherever its reward leads. So beyond the target
it rises with the distance, at once and without memory. The controller of Ziegler et al. (2019, arXiv 1909.08593), which
multiplies it step by step, suits runs of a hundred thousand steps: in runs of forty it came too late and then stayed
too long (docs/LOG.md), and it leaves a state to be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from rung.base.errors import SettingsError
from rung.train.reference import Reference
from rung.train.rollout_batch import Batch
from rung.train.rollout_settings import KlControlSettings, RolloutSettings

__all__ = ["Held", "check_control", "held_coefficient", "read_reference"]


@dataclass(frozen=True, slots=True)
class Held:
    """Log-probabilities under the reference by (number of a group, place in it), of what is trained and what is
    measured; `kl` in nats per token, never below 0 (None: nothing was drawn)."""

    logprobs: Mapping[tuple[int, int], tuple[float, ...]]
    kl: float | None

    def of_kept(self, batch: Batch) -> list[tuple[float, ...]]:
        """One sequence per sample that is trained on, in the batch's order."""
        return [self.logprobs[group.number, n] for group in batch.kept for n in range(len(group.played))]


def read_reference(reference: Reference, batch: Batch, settings: RolloutSettings) -> Held:
    """The reference's word on a batch, each answer read once."""
    first = batch.drawn[: settings.prompts_per_step]
    groups = {group.number: group for group in (*first, *batch.kept)}
    places = {(number, n): one.rollout for number, group in groups.items() for n, one in enumerate(group.played)}
    values = reference.logprobs(list(places.values()), settings.precision, settings.tokens_per_micro_batch)
    found = dict(zip(places, values, strict=True))
    gaps = [
        own - held
        for group in first
        for n, one in enumerate(group.played)
        for own, held, drawn in zip(
            one.rollout.logprobs, found[group.number, n], one.rollout.sampled, strict=True
        )
        if drawn
    ]  # fmt: skip
    return Held(found, max(fmean(gaps), 0.0) if gaps else None)


def check_control(settings: RolloutSettings, coefficient: float) -> None:
    """Whether an objective's coefficient can be controlled, where that is asked for.

    Raises:
        SettingsError: a target, and an objective that has no reference to measure from; or a start above the highest.
    """
    control = settings.kl_control
    if control is not None and not 0 < coefficient <= control.highest:
        raise SettingsError(
            f"the KL is to be held at a target, and the objective's coefficient is {coefficient:g}",
            place="training.objective.kl_coefficient",
            hint=f"set it above 0 and to at most {control.highest:g}, such as 0.02, or leave kl_control out",
        )


def held_coefficient(coefficient: float, kl: float | None, control: KlControlSettings | None) -> float:
    """The coefficient of a step whose KL was measured."""
    if control is None or kl is None:
        return coefficient
    beyond = max(0.0, kl / control.target - 1)
    return min(control.highest, coefficient + control.strength * beyond)
