"""Rollouts for the checks of policy training, and how far the trainer is from their sampler."""

from __future__ import annotations

from collections.abc import Sequence

from rung.base.errors import SettingsError
from rung.base.seeds import derive
from rung.pipeline.checks._subject import Subject
from rung.records.contracts import Completer, Item
from rung.records.rollout import Rollout

__all__ = ["sampled_logs", "sampled_rollouts"]

_NUM_PROMPTS, _NUM_EACH = 2, 2


def sampled_rollouts(subject: Subject, engine: Completer, num_tokens: int) -> list[Rollout] | None:
    """A few samples for short prompts; None where the engine cannot tell which tokens could be drawn."""
    few = [exchange for exchange, _ in subject.few(_NUM_PROMPTS)]
    items = [Item(exchange.id, exchange.instruction) for exchange in few for _ in range(_NUM_EACH)]
    seeds = [derive(0, "audit rollout", number) for number in range(len(items))]
    try:
        return subject.policy.play(engine, subject.tokenizer, items, seeds, num_tokens)
    except SettingsError:
        return None


def sampled_logs(subject: Subject, rollouts: Sequence[Rollout]) -> list[float]:
    """log(trainer / sampler) of every sampled token."""
    found = subject.policy.logprobs(subject.loaded.network, rollouts)
    return [
        ours - theirs
        for rollout, values in zip(rollouts, found, strict=True)
        for ours, theirs, sampled in zip(values, rollout.logprobs, rollout.sampled, strict=True)
        if sampled
    ]
