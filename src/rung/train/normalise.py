"""The one place where a loss is divided: by the global weight of trained tokens, over micro-batches and ranks.

Averaging the means of micro-batches, or of ranks, weighs tokens of short batches more. Here every trained token of a
step counts the same, wherever it was computed, so k micro-batches on n ranks give the gradient of one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from torch import Tensor

from rung.base.errors import DataError

__all__ = ["Replay", "global_sum", "global_total", "global_weight", "loss_divisor"]


def global_sum(local: Iterable[float], device: torch.device | None = None) -> float:
    """The sum over micro-batches and ranks, in float64."""
    return float(global_total(torch.tensor(sum(local), dtype=torch.float64, device=device)))


def global_total(local: Tensor) -> Tensor:
    """Every entry's sum over ranks; the tensor itself is changed."""
    if _replayed is not None:
        return _replayed.added(local)
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
    if _replayed is not None:
        return total / _replayed.num_ranks
    ranks = torch.distributed.get_world_size() if _distributed() else 1
    return total / ranks


class Replay:
    """Ranks one after another in one process, for whoever wants to see what several would do.

    Every rank is run twice, all of them once and then all again. Ranks add up in step, so the n-th sum of one is the
    n-th of the others: in the first round each is noted (and answered with the rank's own), in the second all of them
    are there.
    """

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self._noted: list[list[Tensor]] = []
        self._num_runs = self._place = 0

    @contextmanager
    def next_rank(self) -> Iterator[None]:
        """Within it this process is the next rank."""
        global _replayed
        if self._num_runs < self.num_ranks:
            self._noted.append([])
        self._num_runs, self._place, _replayed = self._num_runs + 1, 0, self
        try:
            yield
        finally:
            _replayed = None

    def added(self, local: Tensor) -> Tensor:
        """The sum over ranks, in the second round; the tensor itself is changed."""
        if self._num_runs <= self.num_ranks:
            self._noted[-1].append(local.clone())
        else:
            local.copy_(torch.stack([sums[self._place] for sums in self._noted]).sum(0))
        self._place += 1
        return local


_replayed: Replay | None = None


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
