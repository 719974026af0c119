"""Is there anything to learn? A pilot samples groups of training prompts before the first update is paid for.

A group whose answers are all right or all wrong teaches nothing. The share of mixed groups to expect comes with its
interval, and a task where even its upper end is too low is refused: it is too hard, or solved already.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rung.base.errors import GateFailed
from rung.base.fingerprint import plain
from rung.base.proportions import wilson_interval
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.pipeline.stages._model import room
from rung.records.contracts import Item, Scorer
from rung.records.types import RolloutRecord
from rung.search.one_shot import OneShot
from rung.search.played import Played
from rung.train.dynamic_sampling import expected_mixed_share

__all__ = ["PilotSettings", "middle", "pilot_figures", "refuse_hopeless", "sample_pilot"]


class PilotSettings(Settings):
    """How much is sampled, and what it must show."""

    num_prompts: int = Field(16, ge=4, le=4096, description="training prompts, one group of answers each")
    least_mixed: float = Field(0.1, ge=0, le=1, description="share of mixed groups that must at least be possible")


def sample_pilot(
    player: OneShot,
    items: Sequence[Item],
    scorer: Scorer,
    group_size: int,
    seed: int,
    *,
    truncated: Literal["wrong", "mask", "as_is"],
) -> list[RolloutRecord]:
    """One group of answers for every item, judged as training judges them: `truncated` is its setting."""
    asked = [item for item in items for _ in range(group_size)]
    groups = [number for number in range(len(items)) for _ in range(group_size)]
    seeds = [derive(seed, "pilot", number, n % group_size) for n, number in enumerate(groups)]
    played = player.play(asked, seeds, groups)
    judged = room("train.rollout_batch").judged_trace
    scores = scorer.score(asked, [judged(one, truncated) for one in played])
    return [
        _record(item, one, score.value, score.reason) for item, one, score in zip(asked, played, scores, strict=True)
    ]


def middle(records: Sequence[RolloutRecord]) -> float:
    """The median of what a trained model gave: from there on an answer counts as right.

    Raises:
        GateFailed: it judged none.
    """
    given = [record.accuracy for record in records if record.accuracy is not None]
    if not given:
        raise GateFailed("the reward model could read none of the pilot's answers", place="pilot")
    return statistics.median(given)


def pilot_figures(records: Sequence[RolloutRecord], group_size: int, least: float = 1.0) -> dict[str, Any]:
    """Pass rate over all answers and the expected share of mixed groups, each with its interval; right is what has at
    least the value `least`."""
    counts: dict[int, list[float]] = {}
    for record in records:
        if record.accuracy is not None:
            counts.setdefault(record.group, []).append(record.accuracy)
    pairs = [(sum(value >= least for value in own), len(own)) for own in counts.values() if len(own) >= 2]
    right, number = sum(r for r, _ in pairs), sum(n for _, n in pairs)
    low, high = wilson_interval(right, number)
    found = {
        "num_answers": number,
        "pass_rate": right / number if number else 0.0,
        "low": low,
        "high": high,
        "num_abstained": sum(record.accuracy is None for record in records),
        "num_truncated": sum(record.truncated for record in records),
    }
    return {**found, "mixed": plain(expected_mixed_share(pairs, group_size)) if pairs else None}


def refuse_hopeless(figures: Mapping[str, Any], settings: PilotSettings, place: str) -> None:
    """Go on, or not.

    Raises:
        GateFailed: nothing could be judged, or too few groups can be mixed.
    """
    mixed = figures["mixed"]
    if mixed is None:
        raise GateFailed(
            f"the verifier judged none of the pilot's answers ({figures['num_abstained']} abstentions)", place=place
        )
    if mixed["high"] >= settings.least_mixed:
        return
    rate, many = figures["pass_rate"], f"{figures['num_answers']} answers"
    what = "nothing is left to learn" if rate > 0.5 else "there is no success to learn from"
    cut = f", {figures['num_truncated']} hit the limit" if figures["num_truncated"] else ""
    raise GateFailed(
        f"{what}: {rate:.1%} of {many} are right{cut}, and at most {mixed['high']:.1%} of the groups of "
        f"{mixed['group_size']} will be mixed ({settings.least_mixed:.0%} are needed)",
        place=place,
        hint="take a harder task" if rate > 0.5 else "take an easier task, a larger group, or train on answers first",
    )


def _record(item: Item, one: Played, accuracy: float | None, reason: str) -> RolloutRecord:
    rollout = one.rollout
    return RolloutRecord(
        id=f"pilot-{rollout.id}",
        step=0,
        group=rollout.group,
        item_id=item.id,
        type=item.type,
        instruction=item.instruction,
        text=one.trace.text,
        outcome="pilot",
        accuracy=accuracy,
        reason=reason,
        truncated=rollout.truncated,
        prompt_ids=rollout.prompt_ids,
        token_ids=rollout.token_ids,
        sampled=rollout.sampled,
        logprobs=rollout.logprobs,
    )
