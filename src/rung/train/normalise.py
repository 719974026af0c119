"""The one place where a loss is divided: by the global weight of trained tokens, over micro-batches and ranks.

Averaging the means of micro-batches, or of ranks, weighs tokens of short batches more. Here every trained token of a
step counts the same, wherever it was computed, so k micro-batches on n ranks give the gradient of one batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed
from torch import Tensor

from rung.base.errors import DataError

__all__ = ["global_sum", "global_total", "global_weight", "loss_divisor"]


def global_sum(local: Iterable[float], device: torch.device | None = None) -> float:
    """The sum over micro-batches and ranks, in float64."""
    total = torch.tensor(sum(local), dtype=torch.float64, device=device)
    if _distributed():
        torch.distributed.all_reduce(total)
    return float(total)


def global_total(local: Tensor) -> Tensor:
    """Every entry's sum over ranks; the tensor itself is changed."""
    if _distributed():
        torch.distributed.all_reduce(local)
    return local


def global_weight(local_weights: Iterable[float], device: torch.device | None = None) -> float:
    """The weight of a step's trained tokens (their number, when each counts one) over micro-batches and ranks.

    Raises:
        DataError: it is not positive: the step would train on nothing.
    """
    total = global_sum(local_weights, device)
    if not total > 0:
        raise DataError("a step has no trained token", hint="check the loss masks with `rung inspect`")
    return total


def loss_divisor(total: float) -> float:
    """What each micro-batch's summed loss is divided by before backward.

    Data-parallel wrappers average gradients over ranks; a sum over all tokens is wanted, so the mean is undone here.
    """
    ranks = torch.distributed.get_world_size() if _distributed() else 1
    return total / ranks


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
