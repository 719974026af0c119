"""A pair's log-probabilities are those of its two responses alone, and a cut leaves both of them their question.

Padding that counts, an end token that is masked because it equals the padding, and truncation from the left have each
spoilt preference training in silence (TRL#1217, #1284, #3307, #3398, #6321, #6879). Pairs of unequal lengths in one row
against each text by itself; then both responses are cut where the trainer cuts.
"""

from __future__ import annotations

import math
from itertools import pairwise

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, not_applicable, verdict
from rung.pipeline.checks._logprobs import next_logprobs
from rung.pipeline.checks._subject import Subject
from rung.pipeline.stages._model import room
from rung.records.packing import Example

__all__ = ["PairPadding"]


class PairPaddingSettings(BaseSettings):
    """How close is the same."""

    tolerance: float = Field(1e-3, gt=0, description="largest difference per trained token, in nats")
    num_pairs: int = Field(2, ge=1, description="pairs in one row")


class PairPadding(Check):
    """The longest question, answered by its own response and by others'."""

    Settings = PairPaddingSettings
    guards = "padding or truncation that spoils pairs"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """Together against alone, then cut."""
        exchanges = [exchange for exchange, _ in subject.few(self.settings.num_pairs + 1)]
        if len(exchanges) < 2:
            return not_applicable("two examples are needed")
        kind, pairs = room("train.pairs").PairExample, []
        for number, (one, other) in enumerate(pairwise(exchanges)):
            chosen, rejected = (
                Example(f"{number}{side}", subject.text.render(subject.tokenizer, one.instruction, response))
                for side, response in (("+", one.response), ("-", other.response))
            )
            pairs.append(kind(f"pair {number}", chosen, rejected))
        found = subject.policy.pair_logprobs(subject.loaded.network, pairs)
        worst, problems = 0.0, []
        for pair, sums in zip(pairs, found, strict=True):
            for example, value in zip((pair.chosen, pair.rejected), sums, strict=True):
                gap = abs(value - _alone(subject, example)) / max(1, sum(example.rendered.loss_mask))
                worst = max(worst, gap)
                if not gap <= self.settings.tolerance:
                    problems.append(f"response {example.id}: {gap:.1e} nats per token from the same text alone")
            problems += _cut(subject, pair)
        return verdict(problems, f"{2 * len(pairs)} responses in one row: within {worst:.1e} nats per token of alone")


def _alone(subject: Subject, example: Example) -> float:
    ids, mask = example.rendered.token_ids, example.rendered.loss_mask
    values = next_logprobs(subject.loaded.network, ids).tolist()
    return math.fsum(value for value, target in zip(values, mask[1:], strict=True) if target)


def _cut(subject: Subject, pair: object) -> list[str]:
    """Both responses cut one token into the shorter: the question stays, and something to train on."""
    both: list[Example] = [pair.chosen, pair.rejected]  # type: ignore[attr-defined]
    start = both[0].rendered.num_prompt_tokens
    limit = start + 1
    kept, _ = subject.text.cut(both, limit, subject.tokenizer.end_ids)
    problems = []
    for whole, part in zip(both, kept, strict=True):
        if part.rendered.token_ids[:start] != whole.rendered.token_ids[:start]:
            problems.append(f"response {whole.id}: cut at {limit} tokens it has lost its question")
        elif not any(part.rendered.loss_mask[1:]):
            problems.append(f"response {whole.id}: cut at {limit} tokens nothing of it is trained")
    return problems
