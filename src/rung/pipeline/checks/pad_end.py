"""Padding is never trained, and the end still is where both are one token; padding changes no loss.

Masks made by comparing ids with the padding id lose the end token of models that pad with it (transformers#35352,
TRL#1284). The tokenizer is made to pad with its end token for this check, whatever it really does.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, not_applicable, verdict
from rung.pipeline.checks._subject import Subject
from rung.records.packing import Example, PackedRow

__all__ = ["PadEnd"]

_NUM_PADDING = 7


class PadEndSettings(BaseSettings):
    """How close is the same."""

    tolerance: float = Field(1e-4, gt=0, description="largest relative difference of two losses")


class PadEnd(Check):
    """Renders and packs with padding = end, then pads a row."""

    Settings = PadEndSettings
    guards = "padding = end token: padding trained, or the end not"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """Masks, then losses."""
        if not subject.tokenizer.end_ids:
            return not_applicable("the tokenizer declares no end token")
        end = subject.tokenizer.end_ids[0]
        tokenizer = dataclasses.replace(subject.tokenizer, pad_id=end)
        examples = [
            Example(exchange.id, subject.text.render(tokenizer, exchange.instruction, exchange.response))
            for exchange, _ in subject.few(4)
        ]
        total = sum(len(example.rendered.token_ids) for example in examples)
        rows = subject.training.pack(examples, total)
        num_ends = sum(int((row.targets == end).sum()) for row in rows)
        problems = []
        if num_ends != len(examples):
            problems.append(f"{num_ends} end tokens are trained in {len(examples)} examples that each have one")
        loss, objective = subject.training.loss, subject.training.objective
        plain = loss(subject.loaded.network, rows, objective)
        with_padding = loss(subject.loaded.network, [_padded(row, end) for row in rows], objective)
        difference = abs(plain - with_padding) / abs(plain)
        if not difference <= self.settings.tolerance:
            problems.append(f"{_NUM_PADDING} tokens of padding change the loss from {plain:.6f} to {with_padding:.6f}")
        return verdict(problems, f"{num_ends} ends trained, padding changes the loss by {difference:.1e}")


def _padded(row: PackedRow, pad_id: int) -> PackedRow:
    padding = np.full(_NUM_PADDING, pad_id, dtype=np.int64)
    return dataclasses.replace(
        row,
        token_ids=np.concatenate([row.token_ids, padding]),
        positions=np.concatenate([row.positions, np.zeros_like(padding)]),
        loss_mask=np.concatenate([row.loss_mask, np.zeros(_NUM_PADDING, bool)]),
    )
