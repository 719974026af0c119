"""What a pilot says about a larger run of the same settings: its yield, its rate and its share of responses."""

from __future__ import annotations

from dataclasses import dataclass

from rung.base.prices import Tokens
from rung.base.proportions import wilson_interval
from rung.datagen.best_of_n import BestOfNRule, Decision, decide, tries_of
from rung.pipeline.estimate import best_of_n
from rung.pipeline.stage import Bill, Estimate
from rung.records.manifest import Opened

__all__ = ["Pilot", "best_of_n_decision", "pilot_estimate"]


@dataclass(frozen=True, slots=True)
class Pilot:
    """Counts of a finished pilot. `num_kept` are records that it kept, or would have had it not reached its count;
    `num_response_tokens` those of all candidates and collapsed repeats, whatever became of them."""

    num_lines: int
    num_kept: int
    num_candidates: int
    num_response_tokens: int
    seconds: float
    tokens: float
    charged: Tokens

    @staticmethod
    def of(opened: Opened) -> Pilot:
        """Read them from the records; time and tokens are what the manifest says was spent."""
        candidates, spend = list(opened.records("candidate")), opened.manifest.spend
        responses = opened.manifest.settings["responses"]
        return Pilot(
            num_lines=sum(1 for _ in opened.records("instruction")),
            num_kept=sum(one.outcome == "kept" or one.reason == "count_reached" for one in candidates),
            num_candidates=1 if isinstance(responses, str) else int(responses.get("num_candidates", 1)),
            num_response_tokens=sum(one.num_tokens for one in tries_of(candidates, opened.records("drop"))),
            seconds=spend.get("seconds", 0.0),
            tokens=spend.get("tokens", 0.0),
            charged=_charged(opened),
        )

    @property
    def kept_per_line(self) -> float:
        """Kept records per line that the model wrote."""
        return self.num_kept / max(1, self.num_lines)

    @property
    def response_share(self) -> float:
        """The part of the work that grows with the number of responses, in tokens."""
        return min(1.0, self.num_response_tokens / self.tokens) if self.tokens else 0.0

    def per_minute(self) -> tuple[float, float, float]:
        """Kept records a minute: as measured, and between the ends of the 95 % interval of the share of lines kept.
        A pilot of one or two rounds says too little about how its time varies, so time per line counts as measured."""
        lines = 60 * self.num_lines / self.seconds if self.seconds else 0.0
        low, high = wilson_interval(self.num_kept, self.num_lines, 0.95) if self.num_lines else (0.0, 1.0)
        return lines * self.kept_per_line, lines * low, lines * high


def _charged(opened: Opened) -> Tokens:
    """What a provider charged for, over all shards."""
    rows = [value for name, value in opened.manifest.figures.items() if name.startswith("usage_shard_")]
    return Tokens(prompt=sum(row["prompt"] for row in rows), completion=sum(row["completion"] for row in rows))


def pilot_estimate(opened: Opened, count: int, num_shards: int, num_candidates: int) -> Estimate:
    """What `count` kept records cost at the pilot's rate, in `num_shards` shards, with so many responses each."""
    pilot = Pilot.of(opened)
    rate, low, high = pilot.per_minute()
    if not rate:
        return Estimate(num_shards=num_shards, basis=f"{opened.manifest.name} kept nothing")
    estimate = Estimate(
        seconds=60 * count / rate,
        tokens=pilot.tokens / pilot.num_kept * count,
        basis=f"{opened.manifest.name}: {rate:.2f} kept records a minute, between {low:.2f} and {high:.2f}",
        seconds_high=60 * count / low,
        num_shards=num_shards,
        bill=Bill("", pilot.charged.times(count / pilot.num_kept)) if pilot.charged.completion else None,
    )
    return best_of_n(estimate, pilot.response_share, num_candidates / pilot.num_candidates)


def best_of_n_decision(opened: Opened, rule: BestOfNRule) -> Decision:
    """What the written rule says about several responses each, from a pilot's records and what it spent.

    Raises:
        DataError: no instruction was answered.
    """
    tries = tries_of(list(opened.records("candidate")), opened.records("drop"))
    written = opened.manifest.spend.get("tokens", 0.0) - sum(one.num_tokens for one in tries)
    return decide(tries, max(0.0, written), rule)
