"""One optimizer step: packed rows in, one update out. Every trainer of rung steps weights here.

What counts is a trained token, with rows of preference pairs a pair, with rows of labelled answers a label or a pair;
everything else is the same.

Legend: B row, T token, D width, N target, P pair, C answer, K output, U unit that counts (a target, a pair, a label).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from rung.models.head import head_outputs
from rung.models.network import Network
from rung.models.parallel.laid_out import placement_of, synchronising
from rung.records.packing import PackedRow
from rung.train.loss_scale import LossScale
from rung.train.normalise import global_sum, global_total, global_weight, loss_divisor
from rung.train.output_loss import OutputLoss, target_logprobs
from rung.train.pairs import PairLogprobs, PairObjective, PairRow, sums_of
from rung.train.reward_rows import RewardObjective, RewardRow, labels_of
from rung.train.shares import attend_of, own_rows
from rung.train.update import Precision, in_precision, update_weights, without_dropout

__all__ = [
    "Objective",
    "Precision",
    "StepReport",
    "accumulate",
    "evaluate",
    "hidden_at_ends",
    "pair_logprobs",
    "reward_outputs",
    "row_loss",
    "text_losses",
    "train_step",
]


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
    """What a step did. `loss` is the objective per trained token (nats) or per pair, before the update; `grad_norm` is
    the global 2-norm before clipping, and of the gradient without its scale; where it is not finite the update was left
    out. `num_targets` carried loss among the `num_tokens` that were read. `figures` are what the network's balance says
    of the step, over all ranks; `scale` is that of the next step's loss, None where losses are not scaled."""

    loss: float
    num_targets: int
    num_tokens: int
    grad_norm: float
    learning_rate: float
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)
    scale: LossScale | None = None

    @property
    def updated(self) -> bool:
        """Whether the weights were moved."""
        return math.isfinite(self.grad_norm)


def train_step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[PackedRow],
    objective: Objective | PairObjective | RewardObjective,
    *,
    learning_rate: float,
    clip: float,
    precision: Precision = "float32",
    scale: LossScale | None = None,
) -> StepReport:
    """Forward and backward over the rows one at a time, clip the global norm to `clip` (0: never), update.

    `scale`: what the loss is multiplied by for its gradient, which float16 needs; see `rung.train.loss_scale`. Where
    the gradient is then too large, weights, optimizer and the network's balance stay what they were.

    Raises:
        ModelError: the loss or the gradient is not finite, and no smaller scale would help; the weights are left as
            they were.
        DataError: no row has a trained token.
    """
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    loss = accumulate(network, rows, objective, precision, scale=1.0 if scale is None else scale.value)
    norm = update_weights(optimizer, loss, learning_rate=learning_rate, clip=clip, scale=scale)
    return StepReport(
        loss=loss,
        num_targets=sum(len(row.targets) for row in rows),
        num_tokens=sum(len(row.token_ids) for row in rows),
        grad_norm=norm,
        learning_rate=learning_rate,
        seconds=time.perf_counter() - start,
        figures=_settled(network, math.isfinite(norm)),
        scale=None if scale is None else scale.after(math.isfinite(norm)),
    )


def accumulate(
    network: Network,
    rows: Sequence[PackedRow],
    objective: Objective | PairObjective | RewardObjective,
    precision: Precision = "float32",
    *,
    scale: float = 1.0,
) -> float:
    """Add the gradient of `scale` times the objective over all rows to the parameters; returns the objective per
    trained token (per pair, for rows of pairs).

    The divisor is the global weight of what counts, known before the first backward, so the gradient does not
    depend on how the examples were split into rows, nor on how many ranks read them. Every rank is given all rows of
    the step and takes its share. What the network's balance adds to it is per token that was read, and no part of what
    is returned.
    """
    device = network.output_weight.device
    weighted = _weighted(network, rows, objective)
    placement = placement_of(network)
    if placement is not None and placement.circle.timeline is not None:
        placement.circle.timeline.moments.clear()
    total = global_weight((float(weights_U.sum(dtype=torch.float64)) for _, weights_U, _ in weighted), device)
    num_read = global_sum((len(row.token_ids) * counts for row, _, counts in weighted), device)
    divisor, summed = loss_divisor(total), 0.0
    for number, (row, weights_U, counts) in enumerate(weighted, 1):
        with synchronising(network, last=number == len(weighted)):
            loss = _loss(network, row, weights_U, objective, precision)
            owed = loss / divisor
            if network.balance is not None:
                owed = owed + network.balance.take_loss(counts) / loss_divisor(num_read)
            (owed * scale).backward()  # type: ignore[no-untyped-call]
        summed += float(loss.detach())
    return global_sum([summed], device) / total


def row_loss(
    network: Network,
    row: PackedRow,
    objective: Objective | PairObjective | RewardObjective,
    precision: Precision = "float32",
) -> Tensor:
    """What a step goes backward through for one row, before any division: the objective, and what the network's balance
    adds. The balance forgets it."""
    loss = _loss(network, row, _weights(row, objective).to(network.output_weight.device), objective, precision)
    return loss if network.balance is None else loss + network.balance.take_loss(counts=False)


@torch.no_grad()
def evaluate(
    network: Network,
    rows: Sequence[PackedRow],
    objective: Objective | PairObjective | RewardObjective,
    precision: Precision = "float32",
) -> float:
    """The objective per trained token (or pair) over the rows, dropout off; nothing is changed."""
    device = network.output_weight.device
    with without_dropout(network):
        summed, total = 0.0, 0.0
        for row, weights_U, _ in _weighted(network, rows, objective):
            summed += float(_loss(network, row, weights_U, objective, precision))
            total += float(weights_U.sum())
    return global_sum([summed], device) / global_weight([total], device)


@torch.no_grad()
def pair_logprobs(network: Network, rows: Sequence[PairRow], precision: Precision = "float32") -> list[PairLogprobs]:
    """The log-probabilities of each row's responses, dropout off; nothing is changed."""
    with without_dropout(network):
        return [_pair_logprobs(network, row, precision) for row in rows]


@torch.no_grad()
def text_losses(network: Network, row: PackedRow, precision: Precision = "float32") -> list[float]:
    """The mean nats of the targets of each document of a row, every one of which has some; dropout off, nothing is
    changed."""
    starts = np.cumsum(row.lengths) - np.asarray(row.lengths)
    counts = np.add.reduceat(row.loss_mask.astype(np.int64), starts)
    with without_dropout(network):
        hidden_ND, targets_N = _targets(network, row, precision)
        logprobs_N = target_logprobs(hidden_ND, network.output_weight, targets_N, softcap=network.softcap)
    return [-float(part.mean(dtype=torch.float64)) for part in torch.split(logprobs_N, counts.tolist())]


@torch.no_grad()
def reward_outputs(network: Network, rows: Sequence[RewardRow], precision: Precision = "float32") -> list[Tensor]:
    """What the network's head says of each row's answers [C, K], dropout off; nothing is changed."""
    with without_dropout(network):
        return [head_outputs(network, hidden_at_ends(network, row, precision)) for row in rows]


@torch.no_grad()
def hidden_at_ends(network: Network, row: RewardRow, precision: Precision = "float32") -> Tensor:
    """The final hidden state of each answer's last token [C, D], dropout off; nothing is changed."""
    with without_dropout(network):
        return _targets(network, row, precision)[0]


def _settled(network: Network, updated: bool) -> Mapping[str, float]:
    """The figures of the network's balance for a step; after one that changed no weight it changes nothing either."""
    if network.balance is None:
        return {}
    if updated:
        return network.balance.settle(global_total)
    network.balance.forget()
    return {}


def _weighted(
    network: Network, rows: Sequence[PackedRow], objective: Objective | PairObjective | RewardObjective
) -> list[tuple[PackedRow, Tensor, bool]]:
    """What this rank reads, with how much each of its units counts, and whether any of it does. On one device rows
    that hold none are left out; ranks compute in step, so there they are read all the same."""
    device, placement = network.output_weight.device, placement_of(network)
    shares = own_rows(rows, placement)
    weighted = [(row, _weights(row, objective).to(device) * counts, counts) for row, counts in shares]
    return [share for share in weighted if len(share[1]) or placement is not None]


def _weights(row: PackedRow, objective: Objective | PairObjective | RewardObjective) -> Tensor:
    """How much each target of a row counts; for a row of pairs, each pair; for a row of answers, each label or pair."""
    if isinstance(row, RewardRow):
        return cast("RewardObjective", objective).label_weights(labels_of(row))
    if isinstance(row, PairRow):
        return torch.ones(len(row.pair_ids))
    return cast("Objective", objective).weights(torch.from_numpy(row.target_counts))


def _loss(
    network: Network,
    row: PackedRow,
    weights_U: Tensor,
    objective: Objective | PairObjective | RewardObjective,
    precision: Precision,
) -> Tensor:
    if isinstance(row, RewardRow):
        outputs_CK = head_outputs(network, _targets(network, row, precision)[0])
        labels = labels_of(row, outputs_CK.device)
        return (cast("RewardObjective", objective).answer_losses(outputs_CK, labels) * weights_U).sum()
    if isinstance(row, PairRow):
        pairs = _pair_logprobs(network, row, precision)
        return (cast("PairObjective", objective).pair_losses(pairs).losses * weights_U).sum()
    hidden_ND, targets_N = _targets(network, row, precision)
    if not len(targets_N):
        # Of every weight, so that a rank without a target sends as many gradients as the others.
        return (hidden_ND.sum() + network.output_weight[:1].sum()) * 0.0
    loss = cast("Objective", objective)
    with in_precision(hidden_ND.device, precision):
        return loss(hidden_ND, network.output_weight, targets_N, weights_U, softcap=network.softcap).total


def _pair_logprobs(network: Network, row: PairRow, precision: Precision) -> PairLogprobs:
    hidden_ND, targets_N = _targets(network, row, precision)
    with in_precision(hidden_ND.device, precision):
        logprobs_N = target_logprobs(hidden_ND, network.output_weight, targets_N, softcap=network.softcap)
    return sums_of(logprobs_N, row)


def _targets(network: Network, row: PackedRow, precision: Precision) -> tuple[Tensor, Tensor]:
    """Hidden states that predict the row's targets [N, D], and the targets."""
    device = network.output_weight.device
    token_ids_BT, positions_BT = (torch.from_numpy(x).to(device)[None] for x in (row.token_ids, row.positions))
    with in_precision(device, precision):
        hidden_BTD = network.hidden(token_ids_BT, positions_BT, attend_of(row))
    # Only targets meet the output projection: with a large vocabulary it costs more than the whole body.
    hidden_ND = hidden_BTD[0].index_select(0, torch.from_numpy(row.sources).to(device))
    return hidden_ND, torch.from_numpy(row.targets).to(device)
