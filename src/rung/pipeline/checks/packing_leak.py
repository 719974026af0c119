"""Documents packed into one row do not see each other, in every kind of attention layer.

Leaks come back layer type by layer type and back end by back end (axolotl#3796, LlamaFactory#7754). First the trainer's
own loss: a document's must be the same alone, beside a neighbour, and beside another one. Then every layer by itself,
so that the finding names the kind: the neighbour's queries, keys and values are turned round, and what the document
sees may not move. Wrapped models attend inside transformers; for them the first part stands alone.

Legend: B batch, T token, H query heads, K key/value heads, d head width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, not_applicable, verdict
from rung.pipeline.checks._subject import Subject
from rung.records.chat.frame import Rendered
from rung.records.packing import Example, PackedRow

__all__ = ["PackingLeak"]


class PackingLeakSettings(BaseSettings):
    """How close is the same."""

    tolerance: float = Field(1e-4, gt=0, description="largest relative difference of losses and of layer outputs")


class PackingLeak(Check):
    """Changes one neighbour and watches the other."""

    Settings = PackingLeakSettings
    guards = "packed neighbours that leak into each other"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """The losses, then the layers."""
        few = [example for _, example in subject.few(2)]
        if len(few) < 2:
            return not_applicable("two examples are needed")
        neighbour, watched = (_silent(few[0].rendered), few[1].rendered)
        row = _row(subject, neighbour, watched)
        losses = {
            "alone": _loss(subject, subject.training.pack([Example("watched", watched)], len(watched.token_ids))[0]),
            "beside one neighbour": _loss(subject, row),
            "beside another": _loss(subject, _row(subject, _turned(neighbour), watched)),
        }
        alone = losses["alone"]
        problems = [
            f"the loss is {alone:.6f} alone and {loss:.6f} {name}"
            for name, loss in losses.items()
            if not abs(loss - alone) <= self.settings.tolerance * abs(alone)
        ]
        if subject.loaded.path == "fallback":
            return verdict(problems, "equal losses; layers are transformers' own")
        kinds = _layers(subject, row)
        leaking = {kind: worst for kind, worst in kinds.items() if not worst <= self.settings.tolerance}
        problems += [f"{kind} layers let {worst:.1e} through" for kind, worst in leaking.items()]
        return verdict(problems, f"loss {alone:.4f} in all rows; {' and '.join(kinds)} layers separate documents")


def _silent(rendered: Rendered) -> Rendered:
    """The same tokens without loss, so that a row's loss is the other document's alone."""
    return dataclasses.replace(rendered, loss_mask=(False,) * len(rendered.loss_mask))


def _turned(rendered: Rendered) -> Rendered:
    return dataclasses.replace(rendered, token_ids=rendered.token_ids[::-1])


def _row(subject: Subject, neighbour: Rendered, watched: Rendered) -> PackedRow:
    examples = [Example("neighbour", neighbour), Example("watched", watched)]
    (row,) = subject.training.pack(examples, sum(len(e.rendered.token_ids) for e in examples))
    return row


def _loss(subject: Subject, row: PackedRow) -> float:
    return subject.training.loss(subject.loaded.network, [row], subject.training.objective)


@dataclass(frozen=True)
class _Call:
    tensors: tuple[Tensor, Tensor, Tensor]
    layer: int
    scale: float
    window: int


class _Recording:
    """Attends like the one inside, and keeps what it was asked."""

    def __init__(self, attend: Any) -> None:
        self.attend = attend
        self.calls: list[_Call] = []

    def __call__(
        self, layer: int, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int
    ) -> Tensor:
        self.calls.append(_Call((query_BTHd, key_BTKd, value_BTKd), layer, scale, window))
        seen: Tensor = self.attend(layer, query_BTHd, key_BTKd, value_BTKd, scale=scale, window=window)
        return seen


@torch.inference_mode()
def _layers(subject: Subject, row: PackedRow) -> dict[str, float]:
    """Kind of layer -> the largest change, relative to the largest output, that a turned neighbour makes."""
    network = subject.loaded.network
    device = network.output_weight.device
    ids_1T, positions_1T = (torch.from_numpy(x).to(device)[None] for x in (row.token_ids, row.positions))
    recording = _Recording(subject.training.attend([row.lengths]))
    network.hidden(ids_1T, positions_1T, recording)
    place = row.ids.index("neighbour")
    start = sum(row.lengths[:place])
    span = slice(start, start + row.lengths[place])
    worst: dict[str, float] = {}
    for call in recording.calls:
        kind = f"window-{call.window}" if call.window else "full-attention"
        worst[kind] = max(worst.get(kind, 0.0), _change(subject, row, call, span))
    return worst


def _change(subject: Subject, row: PackedRow, call: _Call, neighbour: slice) -> float:
    turned = tuple(tensor.clone() for tensor in call.tensors)
    for tensor in turned:
        tensor[:, neighbour] = -tensor[:, neighbour]
    outputs = []
    for query, key, value in (call.tensors, turned):
        attend = subject.training.attend([row.lengths])
        seen = attend(call.layer, query, key, value, scale=call.scale, window=call.window)
        seen[:, neighbour] = 0
        outputs.append(seen)
    return float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max())
