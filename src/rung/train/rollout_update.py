"""The updates of one batch of rollouts: old and reference log-probabilities first, then one step or several.

The old log-probabilities are computed once, before the first of several updates, and stay: the ratio of every later
update is to the policy that sampled. What only the first update reads takes the current ones for them, and under the
bypass they are the sampler's own: both save that forward pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rung.base.seeds import stream
from rung.models.network import Network
from rung.train.importance import Mismatch
from rung.train.policy import PolicyFigures, merge_figures
from rung.train.policy_step import PolicyReport, Sample, policy_step, rollout_logprobs
from rung.train.rollout_batch import Batch
from rung.train.rollout_kl import Held
from rung.train.rollout_settings import RolloutSettings

__all__ = ["Updated", "update", "update_order"]


_NONE = PolicyFigures(0, 0, 0.0, 0.0, 0.0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Updated:
    """What the updates of a batch did. Loss is the mean over them, the gradient's norm the largest; the mismatch is
    that of the first update, before the weights moved."""

    loss: float
    grad_norm: float
    figures: PolicyFigures
    mismatch: Mismatch | None
    num_tokens: int
    num_trained: int
    num_updates: int
    seconds: float


def update(
    network: Network,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    objective: Any,
    settings: RolloutSettings,
    *,
    held: Held | None,
    learning_rate: float,
    poll: Callable[[], None],
) -> Updated:
    """Train on the batch's kept groups; `held` is the reference's word on them (None: the objective asks for none).
    `poll` follows every micro-batch, and what it raises passes through.

    Raises:
        ModelError: the loss or the gradient is not finite.
        DataError: nothing of an update is trained.
    """
    start = time.perf_counter()
    reports: list[PolicyReport] = []
    order = update_order(batch, settings)
    samples = _samples(network, batch, settings, held, _moved_before(order))
    for chosen in order:
        if not any(samples[place].moves(objective.uses_reference) for place in chosen):
            continue
        reports.append(
            policy_step(
                network,
                optimizer,
                [samples[place] for place in chosen],
                objective,
                learning_rate=learning_rate,
                clip=settings.clip,
                precision=settings.precision,
                tokens_per_micro_batch=settings.tokens_per_micro_batch,
                importance=settings.importance,
                on_chunk=lambda done, number: poll(),
            )
        )
    return _together(reports, time.perf_counter() - start)


def update_order(batch: Batch, settings: RolloutSettings) -> list[list[int]]:
    """Which samples each update trains on: whole groups, in a seeded order for every pass when there are several
    updates. An update of which nothing would count is left out."""
    size, num_groups = settings.group_size, len(batch.kept)
    parts = min(settings.num_updates, num_groups)
    found = []
    for again in range(settings.num_passes):
        order = list(range(num_groups))
        if parts > 1:
            stream(settings.seed, "update order", batch.step, again).shuffle(order)
        for part in range(parts):
            groups = order[part * num_groups // parts : (part + 1) * num_groups // parts]
            chosen = [group * size + n for group in groups for n in range(size)]
            if any(any(batch.tokens[place].counts) for place in chosen):
                found.append(chosen)
    return found


def _moved_before(order: Sequence[Sequence[int]]) -> set[int]:
    """The samples that an update reads after another one moved the weights."""
    return {place for chosen in order[1:] for place in chosen}


def _samples(
    network: Network, batch: Batch, settings: RolloutSettings, held: Held | None, moved: set[int]
) -> list[Sample]:
    rollouts = [one.rollout for group in batch.kept for one in group.played]
    old: dict[int, tuple[float, ...]] = {}
    if moved and settings.importance.mode != "bypass":
        places, limit = sorted(moved), settings.tokens_per_micro_batch
        asked = [rollouts[place] for place in places]
        values = rollout_logprobs(network, asked, precision=settings.precision, tokens_per_micro_batch=limit)
        old = dict(zip(places, values, strict=True))
    frozen: Sequence[tuple[float, ...] | None] = [None] * len(rollouts) if held is None else held.of_kept(batch)
    return [
        Sample(rollout, credit.advantages, credit.counts, credit.kl, old.get(place), reference)
        for place, (rollout, credit, reference) in enumerate(zip(rollouts, batch.tokens, frozen, strict=True))
    ]


def _together(reports: Sequence[PolicyReport], seconds: float) -> Updated:
    return Updated(
        loss=sum(report.loss for report in reports) / max(len(reports), 1),
        grad_norm=max((report.grad_norm for report in reports), default=0.0),
        figures=merge_figures([report.figures for report in reports]) if reports else _NONE,
        mismatch=reports[0].mismatch if reports else None,
        num_tokens=sum(report.num_tokens for report in reports),
        num_trained=sum(report.num_trained for report in reports),
        num_updates=len(reports),
        seconds=seconds,
    )
