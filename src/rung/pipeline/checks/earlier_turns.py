"""A chat format keeps earlier turns as they were, thinking included: what is trained is what was sampled after.

Templates that drop an earlier turn's thinking make every later turn's prompt another one than it was sampled under, and
break multi-turn training (prime-rl#1334, verl#6854, ms-swift#4939, #9829). Read as text, so that a format that keeps
other ids but drops nothing passes here and fails `turn_ids`.
"""

from __future__ import annotations

from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._subject import Subject

__all__ = ["EarlierTurns"]

_THOUGHT, _ANSWER = "<think>seven and five make twelve</think>", "It is twelve."
_WORDS = "Are you sure?"


class EarlierTurns(Check):
    """Reads the second prompt's text."""

    guards = "a chat format that drops earlier turns or their thinking"

    def run(self, subject: Subject) -> Outcome:
        """The question, the thought, the answer and the new words, in that order."""
        tokenizer, problems = subject.tokenizer, []
        drawn = tokenizer.encode(f" {_THOUGHT} {_ANSWER}")
        asked = [exchange for exchange, _ in subject.few(3)]
        for exchange in asked:
            second = tokenizer.decode(subject.policy.second_prompt(tokenizer, exchange.instruction, drawn, _WORDS))
            place, parts = (
                0,
                {"question": exchange.instruction, "thinking": _THOUGHT, "answer": _ANSWER, "words": _WORDS},
            )
            for name, part in parts.items():
                found = second.find(part, place)
                if found < 0:
                    problems.append(f"{exchange.id}: turn two's prompt has lost the {name}")
                    break
                place = found + len(part)
        return verdict(problems, f"{len(asked)} second prompts hold question, thinking, answer and new words")
