"""Which groups of samples are worth training on, and drawing until there are enough (DAPO, arXiv 2503.14476).

A group whose answers are all right or all wrong has advantages of 0. What decides is accuracy, never the reward that is
trained on: a length penalty makes every group look mixed. The refill has a cap, for a task that is too hard or too easy
never fills a batch; what was thrown away is counted by reason, because it was paid for.

`predict_mixed` says beforehand how many groups will be mixed, so that a group size is chosen before the spending.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from rung.base.errors import DataError
from rung.base.proportions import wilson_interval
from rung.base.settings import Field, Settings

__all__ = [
    "Discard",
    "MixedShare",
    "RefillSettings",
    "Refilled",
    "expected_mixed_share",
    "overlong_penalty",
    "predict_mixed",
    "refill",
    "why_discarded",
]

Discard = Literal["all right", "all wrong", "alike", "abstained", "surplus"]
T = TypeVar("T")


class RefillSettings(Settings):
    """How long it is drawn."""

    max_rounds: int = Field(10, ge=1, le=1000, description="draws after which a step is trained with what there is")
    max_drawn_ratio: float = Field(
        8.0, ge=1, le=1000, description="groups drawn at most, as a multiple of those that are wanted"
    )


@dataclass(frozen=True, slots=True)
class Refilled(Generic[T]):
    """The groups to train on, in the order they were drawn, and what the others cost. `why` names the ending: "full",
    "rounds" or "drawn" (a cap), "source" (nothing more to draw)."""

    kept: tuple[T, ...]
    wanted: int
    num_drawn: int
    num_rounds: int
    discarded: dict[Discard, int]
    why: Literal["full", "rounds", "drawn", "source"]

    @property
    def full(self) -> bool:
        """Whether there are as many groups as were wanted."""
        return len(self.kept) == self.wanted

    @property
    def useful_share(self) -> float:
        """Share of the drawn groups that could be trained on, surplus ones included; 0.0 before anything was drawn."""
        useful = len(self.kept) + self.discarded.get("surplus", 0)
        return useful / self.num_drawn if self.num_drawn else 0.0


@dataclass(frozen=True, slots=True)
class MixedShare:
    """The share of prompts whose group of `group_size` will be mixed, estimated from a pilot, with its interval.

    `exact` is false where the pilot drew fewer samples per prompt than a group has: then the share is that of smaller
    groups, which is a lower bound, for larger groups are mixed more often.
    """

    share: float
    low: float
    high: float
    group_size: int
    num_prompts: int
    exact: bool


def why_discarded(accuracies: Sequence[float | None], right: float = 1.0) -> Discard | None:
    """Why a group teaches nothing, by the accuracy of its answers (None: the verifier abstained); None when it does.

    With partial credit a group is "alike" when its answers have one accuracy that is neither `right` nor 0.
    """
    given = [accuracy for accuracy in accuracies if accuracy is not None]
    if len(given) < 2:
        return "abstained"
    if any(accuracy != given[0] for accuracy in given):
        return None
    return "all right" if given[0] >= right else "all wrong" if given[0] <= 0 else "alike"


def refill(
    draw: Callable[[int], Sequence[T]],
    accuracies: Callable[[T], Sequence[float | None]],
    wanted: int,
    settings: RefillSettings,
) -> Refilled[T]:
    """Draw groups until `wanted` of them are mixed, or a cap is reached.

    `draw(n)` samples at most n new groups and returns none when there are no prompts left. Each round asks for what
    is missing, scaled by the share that proved useful so far.
    """
    kept: list[T] = []
    discarded: Counter[Discard] = Counter()
    num_drawn = num_rounds = 0
    most = math.floor(wanted * settings.max_drawn_ratio)
    why: Literal["full", "rounds", "drawn", "source"] = "full"
    while len(kept) < wanted:
        why = "rounds" if num_rounds == settings.max_rounds else "drawn" if num_drawn >= most else "full"
        if why != "full":
            break
        groups = draw(min(_next_draw(wanted, len(kept), num_drawn), most - num_drawn))
        if not groups:
            why = "source"
            break
        num_rounds, num_drawn = num_rounds + 1, num_drawn + len(groups)
        for group in groups:
            reason = why_discarded(accuracies(group))
            if reason is None and len(kept) == wanted:
                reason = "surplus"
            if reason is None:
                kept.append(group)
            else:
                discarded[reason] += 1
    return Refilled(tuple(kept), wanted, num_drawn, num_rounds, dict(discarded), why)


def overlong_penalty(num_tokens: int, limit: int, buffer: int, factor: float = 1.0) -> float:
    """What is added to a reward for length: 0 until `limit` - `buffer`, falling evenly to -`factor` at `limit` and on.

    DAPO's soft punishment, held at -`factor` beyond the limit. It shapes the reward; never filter groups on the sum.

    Raises:
        DataError: the buffer is not between 1 and the limit.
    """
    if not 0 < buffer <= limit:
        raise DataError(f"a buffer of {buffer} does not fit into a limit of {limit}", place="overlong_penalty")
    return -factor * min(max(num_tokens - (limit - buffer), 0), buffer) / buffer


def predict_mixed(pass_rate: float, group_size: int) -> float:
    """The chance that a group has both right and wrong answers, when each is right with `pass_rate`."""
    return max(0.0, 1.0 - pass_rate**group_size - (1.0 - pass_rate) ** group_size)


def expected_mixed_share(pilot: Sequence[tuple[int, int]], group_size: int, level: float = 0.95) -> MixedShare:
    """The share of mixed groups to expect, from (right answers, answers) of each prompt of a pilot.

    Putting measured pass rates into `predict_mixed` is biased. The chance that a group drawn out of the pilot's own
    answers is mixed is not (the argument of pass@k, Chen et al., 2021, arXiv 2107.03374), and that is averaged over
    prompts. The interval is Wilson's over prompts, which is wide enough for any shares between 0 and 1.

    Raises:
        DataError: no prompts, a group of fewer than two, or counts that cannot be.
    """
    if group_size < 2 or not pilot:
        raise DataError(f"{len(pilot)} prompts, group size {group_size}: nothing can be mixed", place="pilot")
    for place, (right, number) in enumerate(pilot):
        if not (0 <= right <= number and number >= 2):
            raise DataError(f"{right} right of {number} answers, two are needed", place=f"pilot, prompt {place}")
    shares = [_mixed_without_replacement(right, number, min(group_size, number)) for right, number in pilot]
    low, high = wilson_interval(sum(shares), len(shares), level)
    exact = all(number >= group_size for _, number in pilot)
    return MixedShare(sum(shares) / len(shares), low, high, group_size, len(shares), exact)


def _mixed_without_replacement(right: int, number: int, size: int) -> float:
    alike = math.comb(right, size) + math.comb(number - right, size)
    return 1 - alike / math.comb(number, size)


def _next_draw(wanted: int, num_kept: int, num_drawn: int) -> int:
    """Groups to draw next; with none useful so far as many as were drawn, which doubles them."""
    if not num_drawn:
        return wanted
    useful = num_kept / num_drawn
    return max(1, math.ceil((wanted - num_kept) / useful) if useful else num_drawn)
