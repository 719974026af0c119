"""A later turn is read after the very ids that were drawn, never after what their text is tokenised to.

Decoding a sampled answer and encoding it again gives other ids, whose log-probabilities are another text's; the same
bug in five stacks within thirteen months (TRL#5224, SkyRL#123, slime#117, rllm#272, ms-swift#10012). The answer here is
drawn letter by letter, as no tokenizer would write it, and ends in the model's end token where it has one.
"""

from __future__ import annotations

from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._subject import Subject

__all__ = ["TurnIds"]

_ANSWER, _WORDS = "the answer", "Now say it again."


class TurnIds(Check):
    """Reads the second prompt's ids."""

    guards = "sampled text that is tokenised again"

    def run(self, subject: Subject) -> Outcome:
        """Prompt, drawn ids, then something new."""
        tokenizer, problems = subject.tokenizer, []
        drawn = [i for letter in _ANSWER for i in tokenizer.encode(letter)] + list(tokenizer.end_ids[:1])
        asked = [exchange for exchange, _ in subject.few(3)]
        for exchange in asked:
            first = subject.text.prompt_ids(tokenizer, subject.text.prompts["training"](exchange.instruction))
            second = subject.policy.second_prompt(tokenizer, exchange.instruction, drawn, _WORDS)
            known = (*first, *drawn)
            if tuple(second[: len(known)]) != known:
                place = next((n for n, (a, b) in enumerate(zip(second, known, strict=False)) if a != b), len(second))
                problems.append(
                    f"{exchange.id}: turn two's prompt leaves the drawn ids at place {place} of {len(known)}"
                )
            elif len(second) <= len(known):
                problems.append(f"{exchange.id}: turn two's prompt says nothing after the answer")
        return verdict(problems, f"{len(asked)} second prompts keep all {len(drawn)} drawn ids")
