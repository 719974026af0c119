"""The start token stands once at the front of every model input, in training and in generation, and nowhere else.

A second one moves every reward and accuracy a little and shows in no curve (OpenRLHF#393, NVIDIA-NeMo/RL#962). A text
that spells the token out (`<bos>`) puts it in the middle. It takes the tokenizer's declared start ids for the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._subject import Subject
from rung.records.tokenizer import Tokenizer

__all__ = ["StartToken"]


class StartToken(Check):
    """Reads every rendered example and every prompt as the engine would read it."""

    guards = "start token doubled or missing"

    def run(self, subject: Subject) -> Outcome:
        """Ids in front, and everywhere else."""
        inputs = list(_inputs(subject))
        found = [(place, _problem(ids, subject.tokenizer)) for place, ids in inputs]
        start = subject.tokenizer.start_ids
        declared = f"{list(start)} once in front of each" if start else "none declared, none there"
        return verdict(
            [f"{place}: {problem}" for place, problem in found if problem], f"{len(inputs)} inputs, {declared}"
        )


def _inputs(subject: Subject) -> Iterator[tuple[str, Sequence[int]]]:
    for exchange, example in zip(subject.exchanges, subject.rendered, strict=True):
        yield f"training example {exchange.id}", example.rendered.token_ids
        for name, prompt in subject.text.prompts.items():
            ids = subject.text.prompt_ids(subject.tokenizer, prompt(exchange.instruction))
            yield f"{name} prompt of {exchange.id}", ids


def _problem(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    start = tokenizer.start_ids
    if not start:
        special = tokenizer.inner.get_added_tokens_decoder()
        first = special.get(ids[0]) if ids else None
        return f"begins with {first.content}, which is not declared" if first is not None and first.special else ""
    if tuple(ids[: len(start)]) != start:
        return f"begins with {list(ids[: len(start)])}, the start token {list(start)} is missing"
    # Some vocabularies use one token for both ends: the last place is the end token's.
    stop = len(ids) - 1 if ids[-1] in tokenizer.end_ids else len(ids)
    again = [place for place in range(len(start), stop) if ids[place] in start]
    return f"the start token stands at place {again[0]} again" if again else ""
