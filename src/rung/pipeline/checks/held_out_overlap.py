"""No training text repeats a held-out item: not to the letter, not folded, not inside, not by long runs of words."""

from __future__ import annotations

from rung.evaluate.item_set import overlap
from rung.pipeline.audit import Check, Outcome, not_applicable, verdict
from rung.pipeline.checks._subject import Subject

__all__ = ["HeldOutOverlap"]


class HeldOutOverlap(Check):
    """Instructions and responses against the suite; paraphrases in other words are not recognised."""

    guards = "training on the held-out set"

    def run(self, subject: Subject) -> Outcome:
        """Every pair that is too close."""
        if not subject.held_out:
            return not_applicable("the recipe has no held-out suite")
        texts = [text for e in subject.exchanges for text in (e.instruction, e.response)]
        owners = [e.id for e in subject.exchanges for _ in range(2)]
        problems = [
            f"{owners[found.text_index]}: {found.kind} overlap with item {found.item_id} ({found.text[:40]!r})"
            for found in overlap(subject.held_out, texts)
        ]
        return verdict(problems, f"{len(texts)} texts share nothing with {len(subject.held_out)} held-out items")
