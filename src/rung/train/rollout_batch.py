"""From prompts to samples with advantages: choose, play, judge, refill, give credit.

Legend: N token of a rollout, K sample of a step.

Which prompt is drawn next depends on the seed and on how many were drawn before, nothing else: every prompt comes once
an epoch, in an order of the epoch's own, and a resumed run draws what an uninterrupted one would. A group's number is
the place of its draw, so a prompt that comes twice in a step is two groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from rung.base.seeds import derive, stream
from rung.records.contracts import Item, Score, Trace
from rung.records.types import RolloutRecord
from rung.train.advantages import Advantages, Credit, GroupedRewards
from rung.train.dynamic_sampling import Refilled, refill, why_discarded
from rung.train.health import Outcome
from rung.train.rollout_parts import Mixed, Parts, Played
from rung.train.rollout_settings import RolloutSettings

__all__ = ["Batch", "Group", "TokenCredit", "draw_batch", "judged_trace", "prompt_places"]


@dataclass(frozen=True, slots=True)
class Group:
    """The answers to one prompt, drawn together, with the verifier's judgement of each."""

    number: int
    item: Item
    played: tuple[Played, ...]
    scores: tuple[Score, ...]

    @property
    def accuracies(self) -> tuple[float | None, ...]:
        """What the verifier says; None where it abstained."""
        return tuple(score.value for score in self.scores)


@dataclass(frozen=True, slots=True)
class TokenCredit:
    """What training does with every token of one rollout."""

    advantages: tuple[float, ...]
    counts: tuple[bool, ...]
    kl: tuple[bool, ...]

    @property
    def mean(self) -> float | None:
        """The mean advantage of the tokens that count; None without any."""
        counted = [value for value, counts in zip(self.advantages, self.counts, strict=True) if counts]
        return sum(counted) / len(counted) if counted else None


@dataclass(frozen=True, slots=True)
class Batch:
    """All that was drawn for a step. `kept` are the groups that are trained on; rewards and credit are of their
    samples, group after group; None when no group was kept."""

    step: int
    drawn: tuple[Group, ...]
    refilled: Refilled[Group]
    mixed: Mixed | None
    credit: Advantages | None
    tokens: tuple[TokenCredit, ...]

    @property
    def kept(self) -> tuple[Group, ...]:
        """The groups that are trained on."""
        return self.refilled.kept

    @property
    def rewards(self) -> list[float | None]:
        """Of the kept samples; None where they abstained."""
        return [score.value for score in self.mixed.scores] if self.mixed else []

    @property
    def num_sampled(self) -> int:
        """Tokens that the policy drew, thrown away ones included."""
        return sum(one.rollout.num_sampled for group in self.drawn for one in group.played)

    def outcomes(self) -> list[Outcome]:
        """What became of every answer, thrown away ones included."""
        return [
            Outcome(
                num_tokens=one.rollout.num_sampled,
                right=None if score.value is None else score.value >= 1.0,
                truncated=one.rollout.truncated,
                parsed=bool(one.trace.text.strip()),
            )
            for group in self.drawn
            for one, score in zip(group.played, group.scores, strict=True)
        ]

    def records(self) -> list[RolloutRecord]:
        """Every answer as a record, in the order drawn."""
        place = {group.number: index for index, group in enumerate(self.kept)}
        found: list[RolloutRecord] = []
        for group in self.drawn:
            size, at = len(group.played), place.get(group.number)
            for n, (one, score) in enumerate(zip(group.played, group.scores, strict=True)):
                record = _record(self.step, group, one, score, why_discarded(group.accuracies) or "surplus")
                if at is not None and self.mixed is not None:
                    own = at * size + n
                    record = _trained(record, self.mixed.scores[own], self.tokens[own])
                found.append(record)
        return found


def prompt_places(num_items: int, first: int, count: int, seed: int) -> list[int]:
    """The items of draws number `first` and the `count` - 1 after it."""
    orders: dict[int, list[int]] = {}
    found = []
    for draw in range(first, first + count):
        epoch, within = divmod(draw, num_items)
        if epoch not in orders:
            orders[epoch] = list(range(num_items))
            stream(seed, "prompt order", epoch).shuffle(orders[epoch])
        found.append(orders[epoch][within])
    return found


def draw_batch(
    step: int, first: int, items: Sequence[Item], parts: Parts, settings: RolloutSettings, *, credit: Credit
) -> Batch:
    """Sample, judge and credit the groups of step number `step`, beginning with draw number `first`."""
    drawn: list[Group] = []

    def draw(count: int) -> list[Group]:
        """The next groups in order."""
        fresh = _played(first + len(drawn), count, items, parts, settings)
        drawn.extend(fresh)
        return fresh

    if settings.refill is None:
        kept = tuple(draw(settings.prompts_per_step))
        refilled = Refilled(kept, len(kept), len(kept), 1, {}, "full")
    else:
        refilled = refill(draw, lambda group: group.accuracies, settings.prompts_per_step, settings.refill)
    if not refilled.kept:
        return Batch(step, tuple(drawn), refilled, None, None, ())
    mixed, advantages, tokens = _credited(refilled.kept, parts, settings, credit)
    return Batch(step, tuple(drawn), refilled, mixed, advantages, tokens)


def judged_trace(one: Played, truncated: Literal["wrong", "mask", "as_is"]) -> Trace:
    """The answer as scorers see it: one that was cut off says nothing, where that counts as wrong."""
    cut = truncated == "wrong" and one.rollout.truncated
    return replace(one.trace, text="") if cut else one.trace


def _played(first: int, count: int, items: Sequence[Item], parts: Parts, settings: RolloutSettings) -> list[Group]:
    size = settings.group_size
    chosen = [items[place] for place in prompt_places(len(items), first, count, settings.seed)]
    asked = [item for item in chosen for _ in range(size)]
    numbers = [first + n for n in range(count) for _ in range(size)]
    seeds = [derive(settings.seed, "sample", number, n % size) for n, number in enumerate(numbers)]
    played = parts.player.play(asked, seeds, numbers)
    scores = parts.accuracy.score(asked, [judged_trace(one, settings.truncated) for one in played])
    cuts = [slice(n * size, (n + 1) * size) for n in range(count)]
    return [
        Group(first + n, item, tuple(played[cut]), tuple(scores[cut]))
        for n, (item, cut) in enumerate(zip(chosen, cuts, strict=True))
    ]


def _credited(
    kept: Sequence[Group], parts: Parts, settings: RolloutSettings, credit: Credit
) -> tuple[Mixed, Advantages, tuple[TokenCredit, ...]]:
    """Rewards of the kept groups, their credit, and what it means for each token."""
    samples = [(group, one) for group in kept for one in group.played]
    numbers = [group.number for group, _ in samples]
    traces = [judged_trace(one, settings.truncated) for _, one in samples]
    mixed = parts.rewards.mixed([group.item for group, _ in samples], traces, numbers)
    advantages = credit.advantages(GroupedRewards.of([score.value for score in mixed.scores], numbers))
    masks = [settings.truncated == "mask" and one.rollout.truncated for _, one in samples]
    tokens = tuple(
        _over_tokens(advantages, index, one.rollout.sampled, masked)
        for index, ((_, one), masked) in enumerate(zip(samples, masks, strict=True))
    )
    return mixed, advantages, tokens


def _over_tokens(advantages: Advantages, index: int, sampled: Sequence[bool], masked: bool) -> TokenCredit:
    """The credit of sample number `index`, on the tokens that it sampled and nowhere else."""
    rewards_N = torch.tensor([index if own and not masked else -1 for own in sampled], dtype=torch.int64)
    values_N, counts_N, kl_N = advantages.over_tokens(rewards_N)
    return TokenCredit(tuple(values_N.tolist()), tuple(counts_N.tolist()), tuple(kl_N.tolist()))


def _record(step: int, group: Group, one: Played, score: Score, outcome: str) -> RolloutRecord:
    rollout = one.rollout
    own = [e for e, sampled in zip(rollout.entropies, rollout.sampled, strict=False) if sampled]
    return RolloutRecord(
        id=f"{step}-{rollout.id}-{group.number}",
        step=step,
        group=group.number,
        item_id=group.item.id,
        type=group.item.type,
        instruction=group.item.instruction,
        text=one.trace.text,
        outcome=outcome,
        accuracy=score.value,
        reason=score.reason,
        truncated=rollout.truncated,
        entropy=sum(own) / len(own) if own else None,
        prompt_ids=rollout.prompt_ids,
        token_ids=rollout.token_ids,
        sampled=rollout.sampled,
        logprobs=rollout.logprobs,
    )


def _trained(record: RolloutRecord, score: Score, tokens: TokenCredit) -> RolloutRecord:
    outcome = "trained" if any(tokens.counts) else "masked"
    return replace(
        record, outcome=outcome, reward=score.value, advantage=tokens.mean, parts=dict(score.components),
        reason=score.reason or record.reason,
    )  # fmt: skip
