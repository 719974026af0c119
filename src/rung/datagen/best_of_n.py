"""Best-of-N: what drawing several responses per instruction yields and costs, and the written rule that decides on it.

A pilot that drew n responses per instruction says what any k up to n would have given: averaged over all choices of k
among the n, as pass@k is (Chen et al. 2021, "Evaluating Large Language Models Trained on Code"). Instructions are paid
once whatever k is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from rung.base.errors import DataError
from rung.base.proportions import wilson_interval
from rung.base.settings import Field, Settings
from rung.records.types import Candidate, Drop

__all__ = ["BestOfNRule", "Decision", "Option", "Tries", "decide", "options", "tries_of"]

_Z = NormalDist().inv_cdf(0.975)


class BestOfNRule(Settings):
    """When a large run draws several responses per instruction. The largest number that meets every line is taken."""

    max_cost_ratio: float = Field(1.5, ge=0, description="tokens per kept record against one response each: at most")
    min_yield_gain: float = Field(
        0.05, ge=0, le=1, description="more instructions with a kept answer, low end of 95 %: at least"
    )
    max_repeat_share: float = Field(0.5, ge=0, le=1, description="responses equal to a sibling: at most this share")
    min_instructions: int = Field(20, ge=1, description="with fewer answered instructions nothing is decided: one each")


@dataclass(frozen=True, slots=True)
class Tries:
    """The responses drawn for one instruction.

    `ranks` are those of the accepted ones; `num_repeats` of the `num_drawn` equal an earlier sibling; `num_tokens` is
    what the model wrote for all of them.
    """

    instruction_id: str
    num_drawn: int
    ranks: tuple[float, ...]
    num_repeats: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Option:
    """What `num_candidates` responses per instruction give.

    `kept_share` of the instructions end with a kept answer (`low`, `high`: Wilson's 95 %); `gain_low` is the low end
    of the gain over one response, paired by instruction. `mean_rank` is the mean rank of kept answers (None: none are
    kept). `response_calls` per instruction, and `tokens_per_kept` with the instruction's own tokens (infinite is
    None).
    """

    num_candidates: int
    kept_share: float
    low: float
    high: float
    gain: float
    gain_low: float
    mean_rank: float | None
    response_calls: float
    tokens_per_kept: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    """`num_candidates` for the large run, and why, each reason with the numbers it used."""

    num_candidates: int
    reasons: tuple[str, ...]
    num_instructions: int
    repeat_share: float
    options: tuple[Option, ...]

    @property
    def go(self) -> bool:
        """Whether the large run draws more than one response."""
        return self.num_candidates > 1


def tries_of(candidates: Sequence[Candidate], drops: Iterable[Drop]) -> list[Tries]:
    """Per answered instruction, in order of first appearance, what was drawn; repeats count as their first was judged.

    A candidate that was passed over because the count was reached is accepted all the same.
    """
    repeats: Counter[str] = Counter()
    repeat_tokens: Counter[str] = Counter()
    for drop in drops:
        if drop.part == "responses" and drop.reason == "same_as_sibling":
            repeats[str(drop.detail["repeats"])] += 1
            repeat_tokens[str(drop.detail["repeats"])] += int(drop.detail.get("num_raw_tokens", 0))
    by_instruction: dict[tuple[int, str], list[Candidate]] = {}
    for candidate in candidates:
        by_instruction.setdefault((candidate.shard, candidate.instruction_id), []).append(candidate)
    return [_tries(name, siblings, repeats, repeat_tokens) for (_, name), siblings in by_instruction.items()]


def _tries(name: str, siblings: Sequence[Candidate], repeats: Counter[str], repeat_tokens: Counter[str]) -> Tries:
    ranks: list[float] = []
    for candidate in siblings:
        if candidate.outcome in ("kept", "passed_over") and candidate.pair_critique is not None:
            ranks += [candidate.pair_critique.rank] * (1 + repeats[candidate.id])
    num_repeats = sum(repeats[candidate.id] for candidate in siblings)
    num_tokens = sum(candidate.num_raw_tokens + repeat_tokens[candidate.id] for candidate in siblings)
    return Tries(name, len(siblings) + num_repeats, tuple(sorted(ranks, reverse=True)), num_repeats, num_tokens)


def options(tries: Sequence[Tries], instruction_tokens: float = 0.0) -> tuple[Option, ...]:
    """What one response and every larger number up to the fewest drawn would have given.

    Args:
        tries: of every answered instruction.
        instruction_tokens: what the model wrote for instructions, all together, thrown-away ones included.

    Raises:
        DataError: no instruction was answered.
    """
    if not tries:
        raise DataError("no instruction was answered: nothing can be said of more responses")
    own = instruction_tokens / len(tries)
    each = sum(one.num_tokens for one in tries) / sum(one.num_drawn for one in tries)
    single = [_kept_chance(one, 1) for one in tries]
    return tuple(_option(tries, number, single, own + number * each) for number in range(1, _fewest(tries) + 1))


def _fewest(tries: Sequence[Tries]) -> int:
    return min(one.num_drawn for one in tries)


def _option(tries: Sequence[Tries], number: int, single: Sequence[float], tokens: float) -> Option:
    chances = [_kept_chance(one, number) for one in tries]
    gains = [chance - before for chance, before in zip(chances, single, strict=True)]
    share, gain = fmean(chances), fmean(gains)
    low, high = wilson_interval(sum(chances), len(chances))
    spread = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf if number > 1 else 0.0
    weighted = sum(_best_rank(one, number) for one in tries)
    return Option(
        num_candidates=number,
        kept_share=share,
        low=low,
        high=high,
        gain=gain,
        gain_low=max(-1.0, gain - _Z * spread),
        mean_rank=weighted / sum(chances) if sum(chances) else None,
        response_calls=float(number),
        tokens_per_kept=tokens / share if share else None,
    )


def _kept_chance(tries: Tries, number: int) -> float:
    """The chance that at least one of `number` responses, chosen from those drawn, is accepted."""
    rejected = tries.num_drawn - len(tries.ranks)
    return 1.0 - math.comb(rejected, number) / math.comb(tries.num_drawn, number)


def _best_rank(tries: Tries, number: int) -> float:
    """Expected rank of the best accepted of `number` responses, times the chance that there is one."""
    ways = math.comb(tries.num_drawn, number)
    later = range(tries.num_drawn - 1, -1, -1)  # how many are ranked below the first, the second, ...
    return sum(rank * math.comb(below, number - 1) / ways for rank, below in zip(tries.ranks, later, strict=False))


def decide(tries: Sequence[Tries], instruction_tokens: float, rule: BestOfNRule) -> Decision:
    """The written rule: the largest number of responses whose gain is real, affordable, and not made of repeats.

    Raises:
        DataError: no instruction was answered.
    """
    found = options(tries, instruction_tokens)
    repeat_share = sum(one.num_repeats for one in tries) / sum(one.num_drawn for one in tries)
    reasons: list[str] = []
    chosen = 1
    if len(found) == 1:
        reasons.append("the pilot drew one response per instruction: nothing was measured about more")
    elif len(tries) < rule.min_instructions:
        reasons.append(f"{len(tries)} answered instructions, {rule.min_instructions} are needed to decide")
    elif repeat_share > rule.max_repeat_share:
        reasons.append(f"{repeat_share:.0%} of the responses repeat a sibling, at most {rule.max_repeat_share:.0%}")
    else:
        for option in found[1:]:
            fits, why = _meets(option, found[0], rule)
            reasons.append(why)
            chosen = option.num_candidates if fits else chosen
    return Decision(chosen, tuple(reasons), len(tries), repeat_share, found)


def _meets(option: Option, single: Option, rule: BestOfNRule) -> tuple[bool, str]:
    gain = f"{option.gain:+.1%} kept (low end {option.gain_low:+.1%}, wanted {rule.min_yield_gain:+.1%})"
    if option.tokens_per_kept is None or single.tokens_per_kept is None:
        return False, f"{option.num_candidates} responses: {gain}; no cost per kept record, for one response keeps none"
    ratio = option.tokens_per_kept / single.tokens_per_kept
    fits = option.gain_low >= rule.min_yield_gain and ratio <= rule.max_cost_ratio
    cost = f"{ratio:.2f}x the tokens per kept record (at most {rule.max_cost_ratio:.2f}x)"
    return fits, f"{option.num_candidates} responses: {gain}; {cost}: {'yes' if fits else 'no'}"
