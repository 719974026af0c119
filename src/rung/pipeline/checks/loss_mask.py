"""The trained tokens of every example, decoded, are its completion to the letter: all of it and nothing else.

Masks are emptied by templates without generation marks (TRL#4201, #4879, marin#7237), and shifted when the prompt is
tokenised together with what follows. It asks for one unbroken span that ends the example.
"""

from __future__ import annotations

from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._subject import Subject
from rung.records.chat.frame import Rendered
from rung.records.tokenizer import Tokenizer

__all__ = ["LossMask"]


class LossMask(Check):
    """Decodes what carries loss."""

    guards = "loss mask empty, or on the wrong tokens"

    def run(self, subject: Subject) -> Outcome:
        """Every example against its completion."""
        problems, num_targets = [], 0
        for exchange, example in zip(subject.exchanges, subject.rendered, strict=True):
            expected = subject.text.completion(exchange.response)
            problem = _problem(example.rendered, subject.tokenizer, expected)
            problems += [f"{exchange.id}: {problem}"] if problem else []
            num_targets += sum(example.rendered.loss_mask)
        return verdict(
            problems, f"{num_targets} trained tokens of {len(subject.rendered)} examples are the completions"
        )


def _problem(rendered: Rendered, tokenizer: Tokenizer, expected: str) -> str:
    mask, ids = rendered.loss_mask, rendered.token_ids
    if len(mask) != len(ids):
        return f"{len(ids)} tokens, {len(mask)} mask entries"
    if not any(mask):
        return "no token is trained"
    first = mask.index(True)
    if not all(mask[first:]):
        return f"token {mask.index(False, first)} inside the response is not trained"
    if first != rendered.num_prompt_tokens:
        return f"the loss begins at token {first}, the response at {rendered.num_prompt_tokens}"
    last = len(ids) - (ids[-1] in tokenizer.end_ids)
    # Decoded after its prompt: some decoders drop a space that begins a text.
    head, whole = tokenizer.decode(ids[:first]), tokenizer.decode(ids[:last])
    trained = whole[len(head) :]
    return "" if trained == expected else f"trained is {trained[:40]!r}, the completion is {expected[:40]!r}"
