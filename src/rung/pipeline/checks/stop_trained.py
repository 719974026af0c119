"""Ending is trained: the delimiter and the model's end token carry loss, and generation stops at what was trained.

A model that never saw its end as a target does not stop (TRL#5988, axolotl#3756). A tokenizer without an end token is
told by the delimiter alone.
"""

from __future__ import annotations

from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._subject import Subject
from rung.records.chat.frame import Rendered
from rung.records.stop import cut_at_stop
from rung.records.tokenizer import Tokenizer

__all__ = ["StopTrained"]


class StopTrained(Check):
    """Reads the targets' end."""

    guards = "the stop is never trained"

    def run(self, subject: Subject) -> Outcome:
        """The last targets of every example, and the stop strings against the delimiter."""
        delimiter, tokenizer = subject.text.delimiter, subject.tokenizer
        problems = []
        if not cut_at_stop(delimiter, subject.text.stop_strings)[1]:
            problems.append(f"generation does not stop at the trained delimiter {delimiter!r}")
        for example in subject.rendered:
            problem = _problem(example.rendered, tokenizer, delimiter)
            problems += [f"{example.id}: {problem}"] if problem else []
        end = f"and end token {tokenizer.end_ids[0]} " if tokenizer.end_ids else "(no end token is declared) "
        return verdict(problems, f"delimiter {end}trained in all {len(subject.rendered)} examples")


def _problem(rendered: Rendered, tokenizer: Tokenizer, delimiter: str) -> str:
    pairs = zip(rendered.token_ids, rendered.loss_mask, strict=True)
    targets = [token for token, target in pairs if target]
    if tokenizer.end_ids and (not targets or targets[-1] not in tokenizer.end_ids):
        return f"the end token {tokenizer.end_ids[0]} is not the last target"
    while targets and targets[-1] in tokenizer.end_ids:
        targets.pop()
    trained = tokenizer.decode(targets)
    return "" if trained.endswith(delimiter) else f"the delimiter is not trained, targets end in {trained[-20:]!r}"
