"""The gradient of n ranks is that of one: every token counts the same, whichever rank read it.

A rank that divides by its own tokens weighs those of a short share more, and wrappers that average over ranks make it
a mean of means (TRL#2615, torchtune#1917, verl#3994). Two ranks with shares of unequal length are run here one
after another in this process: what they would add up with each other is noted in a first pass and handed to them in a
second. The network's last norms are trained, as in `accumulation`; real processes are the trainer's own tests'.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, not_applicable, verdict
from rung.pipeline.checks._nudged import trained_vectors
from rung.pipeline.checks._subject import Subject
from rung.pipeline.stages._model import room
from rung.records.packing import PackedRow

__all__ = ["RankShare"]


class RankShareSettings(BaseSettings):
    """How close is the same; see `accumulation`."""

    gradient_tolerance: float = Field(2e-3, gt=0, description="largest difference, relative to the gradient's norm")


class RankShare(Check):
    """Two ranks against one."""

    Settings = RankShareSettings
    guards = "ranks that divide by their own tokens"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """The longest example on one rank, shorter ones on the other."""
        examples = [example for _, example in subject.few(3)]
        if len(examples) < 2:
            return not_applicable("two examples are needed")
        total = sum(len(example.rendered.token_ids) for example in examples)
        shares = [subject.training.pack(part, total) for part in (examples[:1], examples[1:])]
        with trained_vectors(subject.loaded.network, last=3) as parameters:
            whole = _gradient(subject, [row for share in shares for row in share], parameters)
            replay = room("train.normalise").Replay(len(shares))
            for _ in range(2):  # noted, then added up
                parts = []
                for share in shares:
                    with replay.next_rank():
                        parts.append(_gradient(subject, share, parameters))
        averaged = torch.stack(parts).mean(0)
        difference = float((averaged - whole).norm() / whole.norm())
        counts = [sum(len(row.targets) for row in share) for share in shares]
        problems = [f"the gradient of ranks with {counts} targets differs by {difference:.1e} of its norm"]
        fine = difference <= self.settings.gradient_tolerance
        return verdict([] if fine else problems, f"ranks with {counts} targets: gradients differ by {difference:.1e}")


def _gradient(subject: Subject, rows: Sequence[PackedRow], parameters: Sequence[nn.Parameter]) -> Tensor:
    for parameter in parameters:
        parameter.grad = None
    subject.training.accumulate(subject.loaded.network, rows, subject.training.objective)
    return torch.cat([p.grad.flatten().float() for p in parameters if p.grad is not None])
