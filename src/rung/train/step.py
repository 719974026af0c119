"""One optimizer step: packed rows in, one update out. Every trainer of rung steps weights here.

Legend: B row, T token, D width, N target.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from rung.base.errors import ModelError
from rung.models.layers.attend import PackedAttend
from rung.models.network import Network
from rung.records.packing import PackedRow
from rung.train.normalise import global_sum, global_weight, loss_divisor
from rung.train.output_loss import OutputLoss

__all__ = ["Objective", "Precision", "StepReport", "accumulate", "evaluate", "train_step"]

Precision = Literal["float32", "bfloat16"]


class Objective(Protocol):
    """A loss over hidden states of targets; see `rung.train.objectives`."""

    def weights(self, target_counts_N: Tensor) -> Tensor:
        """How much each target counts."""

    def __call__(
        self, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, *, softcap: float
    ) -> OutputLoss:
        """The weighted sum of the targets' losses."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did. `loss` is the objective per trained token (nats), before the update; `grad_norm` is the global
    2-norm before clipping; `num_targets` carried loss among the `num_tokens` that were read."""

    loss: float
    num_targets: int
    num_tokens: int
    grad_norm: float
    learning_rate: float
    seconds: float


def train_step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[PackedRow],
    objective: Objective,
    *,
    learning_rate: float,
    clip: float,
    precision: Precision = "float32",
) -> StepReport:
    """Forward and backward over the rows one at a time, clip the global norm to `clip` (0: never), update.

    Raises:
        ModelError: the loss or the gradient is not finite; the weights are left as they were.
        DataError: no row has a trained token.
    """
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    loss = accumulate(network, rows, objective, precision)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        optimizer.zero_grad(set_to_none=True)
        raise ModelError(
            f"the loss is {loss} and the gradient's norm {norm}: training diverged",
            hint="lower the learning rate or look at the records of this step",
        )
    if 0 < clip < norm:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], clip / norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepReport(
        loss=loss,
        num_targets=sum(len(row.targets) for row in rows),
        num_tokens=sum(len(row.token_ids) for row in rows),
        grad_norm=norm,
        learning_rate=learning_rate,
        seconds=time.perf_counter() - start,
    )


def accumulate(
    network: Network, rows: Sequence[PackedRow], objective: Objective, precision: Precision = "float32"
) -> float:
    """Add the gradient of the objective over all rows to the parameters; returns the objective per trained token.

    The divisor is the global weight of trained tokens, known before the first backward, so the gradient does not
    depend on how the examples were split into rows.
    """
    device = network.output_weight.device
    weights = [objective.weights(torch.from_numpy(row.target_counts)).to(device) for row in rows]
    total = global_weight((float(w.sum(dtype=torch.float64)) for w in weights), device)
    divisor, summed = loss_divisor(total), 0.0
    for row, weights_N in zip(rows, weights, strict=True):
        if len(row.targets):
            loss = _loss(network, row, weights_N, objective, precision).total
            (loss / divisor).backward()  # type: ignore[no-untyped-call]
            summed += float(loss.detach())
    return global_sum([summed], device) / total


@torch.no_grad()
def evaluate(
    network: Network, rows: Sequence[PackedRow], objective: Objective, precision: Precision = "float32"
) -> float:
    """The objective per trained token over the rows, dropout off; nothing is changed."""
    was_training, device = network.training, network.output_weight.device
    network.eval()
    try:
        summed, total = 0.0, 0.0
        for row in rows:
            weights_N = objective.weights(torch.from_numpy(row.target_counts)).to(device)
            summed += float(_loss(network, row, weights_N, objective, precision).total)
            total += float(weights_N.sum())
    finally:
        network.train(was_training)
    return global_sum([summed], device) / global_weight([total], device)


def _loss(
    network: Network, row: PackedRow, weights_N: Tensor, objective: Objective, precision: Precision
) -> OutputLoss:
    device = network.output_weight.device
    token_ids_BT, positions_BT = (torch.from_numpy(x).to(device)[None] for x in (row.token_ids, row.positions))
    with _precision(device, precision):
        hidden_BTD = network.hidden(token_ids_BT, positions_BT, PackedAttend([row.lengths]))
    # Only targets meet the output projection: with a large vocabulary it costs more than the whole body.
    hidden_ND = hidden_BTD[0].index_select(0, torch.from_numpy(row.sources).to(device))
    targets_N = torch.from_numpy(row.targets).to(device)
    return objective(hidden_ND, network.output_weight, targets_N, weights_N, softcap=network.softcap)


def _precision(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
