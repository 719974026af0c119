"""Training's length limit never takes the whole answer away, and never in silence.

Kept-end truncation that drops the prompt, and cuts that leave nothing to train on, both give a normal loss curve
(TRL#3307, #3398, #6879). The recipe's limit is held against its data; then the trainer's own cut is tried at the
border, one token into the response and right before it.
"""

from __future__ import annotations

from rung.base.errors import DataError
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._subject import Subject
from rung.records.packing import Example

__all__ = ["Truncation"]


class TruncationSettings(BaseSettings):
    """What is too much."""

    max_share: float = Field(0.1, ge=0, le=1, description="share of examples whose end may be cut")


class Truncation(Check):
    """Counts what the limit cuts, and cuts one example where it hurts."""

    Settings = TruncationSettings
    guards = "a length limit that removes the answer"

    def run(self, subject: Subject) -> Outcome:
        """The recipe's limit first."""
        limit = subject.max_tokens
        cut = [e for e in subject.rendered if len(e.rendered.token_ids) > limit]
        lost = [e for e in cut if not any(e.rendered.loss_mask[1:limit])]
        problems = [f"{e.id}: nothing of its answer is within {limit} tokens" for e in lost]
        if len(cut) > self.settings.max_share * len(subject.rendered):
            problems.append(f"{len(cut)} of {len(subject.rendered)} examples are cut at {limit} tokens")
        longest = max(subject.rendered, key=lambda e: (len(e.rendered.token_ids), e.id))
        problems += _border(longest, subject)
        return verdict(problems, f"{len(cut)} of {len(subject.rendered)} examples cut at {limit} tokens, none emptied")


def _border(example: Example, subject: Subject) -> list[str]:
    cut, end_ids = subject.text.cut, subject.tokenizer.end_ids
    whole, start = example.rendered, example.rendered.num_prompt_tokens
    (kept,), report = cut([example], start + 1, end_ids)
    problems = []
    if kept.rendered.token_ids != whole.token_ids[: start + 1]:
        problems.append(f"{example.id}: a cut keeps other tokens than the first {start + 1}")
    if not any(kept.rendered.loss_mask):
        problems.append(f"{example.id}: a cut one token into the answer trains nothing")
    if example.id not in report.truncated_ids:
        problems.append(f"{example.id}: a cut is not counted")
    try:
        cut([example], start, end_ids)
    except DataError:
        return problems
    return [*problems, f"{example.id}: a cut that leaves no answer is accepted in silence"]
