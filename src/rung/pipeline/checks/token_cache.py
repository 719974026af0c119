"""What is stored about a record still gives the token ids of today's tokenizer and frame.

A cache made under another tokenizer or template trains on the wrong tokens at a plausible loss (axolotl#1265,
open-instruct#1497). Compared: ids that follow from the stored strings, and the stored token counts.
"""

from __future__ import annotations

from rung.pipeline.audit import Check, Outcome, not_applicable, verdict
from rung.pipeline.checks._subject import Subject

__all__ = ["TokenCache"]


class TokenCache(Check):
    """Stored against made anew."""

    guards = "token ids or frames kept from another tokenizer or template"

    def run(self, subject: Subject) -> Outcome:
        """Record by record."""
        if not subject.cached:
            return not_applicable("no data stage is finished, so nothing is stored yet")
        today = {example.id: example.rendered for example in subject.rendered}
        problems = []
        for kept in subject.cached:
            now = today.get(kept.id)
            if now is None:
                problems.append(f"{kept.id}: its record is not there any more")
            elif kept.rendered.token_ids != now.token_ids:
                place = _first_difference(kept.rendered.token_ids, now.token_ids)
                problems.append(f"{kept.id}: stored and rendered ids differ from token {place} on")
            elif kept.rendered.loss_mask != now.loss_mask:
                problems.append(f"{kept.id}: stored and rendered masks differ")
        for exchange in subject.exchanges:
            count = len(subject.tokenizer.encode(exchange.response))
            if exchange.stored and exchange.stored.num_response_tokens not in (-1, count):
                problems.append(
                    f"{exchange.id}: {exchange.stored.num_response_tokens} response tokens stored, {count} today"
                )
        return verdict(problems, f"{len(subject.cached)} stored examples give today's ids and counts")


def _first_difference(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    shared = (place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
    return next(shared, min(len(left), len(right)))
