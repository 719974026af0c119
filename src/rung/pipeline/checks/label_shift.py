"""A position is trained to say the token after it: neither itself nor the one after the next.

Libraries shift labels inside the model, data collators shift them before it; with both, or with neither, the loss still
falls and the model learns the wrong thing (open-instruct#1549, torchtune#2613). The trainer's loss is held against one
that is computed here position by position; where they differ, the shift that would explain it is named.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, not_applicable, verdict
from rung.pipeline.checks._subject import Subject
from rung.records.packing import PackedRow

__all__ = ["LabelShift"]

_TOLD = {1: "the next token", 0: "the token itself (not shifted)", 2: "the token after the next"}


class LabelShiftSettings(BaseSettings):
    """How close is the same."""

    tolerance: float = Field(1e-4, gt=0, description="largest relative difference of a loss in float32")
    rounded_tolerance: float = Field(2e-3, gt=0, description="the same where weights are held in fewer bits")
    num_examples: int = Field(4, ge=1, description="examples looked at, each in a row of its own")


class LabelShift(Check):
    """The trainer's loss against that of the next token."""

    Settings = LabelShiftSettings
    guards = "labels that are shifted twice, or not at all"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """Example by example: over many, losses of wrong targets come out alike."""
        own, problems, shown = self.settings, list[str](), list[str]()
        exact = subject.loaded.network.output_weight.dtype == torch.float32
        tolerance = own.tolerance if exact else own.rounded_tolerance
        for exchange, example in subject.few(own.num_examples):
            (row,) = subject.training.pack([example], len(example.rendered.token_ids))
            found = subject.training.loss(subject.loaded.network, [row], subject.training.objective)
            losses = {told: _loss(subject, row, shift) for shift, told in _TOLD.items()}
            wanted = losses[_TOLD[1]]
            shown.append(f"{found:.4f}")
            if not abs(found - wanted) <= tolerance * abs(wanted):
                near = min(losses, key=lambda told: abs(found - losses[told]))
                problems.append(f"{exchange.id}: the loss is {found:.4f}, of the next token {wanted:.4f}, of {near} "
                                f"{losses[near]:.4f}")  # fmt: skip
        if not shown:
            return not_applicable("there is no example")
        return verdict(problems, f"the loss is that of the next token: {', '.join(shown)}")


@torch.inference_mode()
def _loss(subject: Subject, row: PackedRow, shift: int) -> float:
    """Nats per masked token when the position `shift` before it says it, document by document."""
    network = subject.loaded.network
    device = network.output_weight.device
    ids_1T, positions_1T = (torch.from_numpy(x).to(device)[None] for x in (row.token_ids, row.positions))
    hidden_TD: Tensor = network.hidden(ids_1T, positions_1T, subject.training.attend([row.lengths]))[0]
    logits_TV = (hidden_TD @ network.output_weight.T).float()
    if network.softcap:
        logits_TV = network.softcap * torch.tanh(logits_TV / network.softcap)
    logprobs_TV = logits_TV.log_softmax(-1)
    places = torch.from_numpy(row.loss_mask & (row.positions >= shift)).to(device).nonzero()[:, 0]
    return -float(logprobs_TV[places - shift, ids_1T[0, places]].mean())
