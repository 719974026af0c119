"""What is found out about rows of logits while they are made, a chunk of the vocabulary at a time.

Legend: N rows, C vocabulary chunk.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rung.models.native.kernels import Best, Kernels, kernels

__all__ = ["Totals", "totals"]


class Totals(Protocol):
    """Log-sum-exp of logits, their entropy and the first largest, over all chunks taken so far."""

    def add(self, chunk_NC: Tensor, scratch_NC: Tensor, start: int) -> None:
        """Take the next chunk, whose first id is `start`; `scratch_NC` may be overwritten."""

    def total(self) -> Tensor:
        """Log-sum-exp per row, [N]."""

    def entropy(self) -> Tensor:
        """Entropy per row in nats, [N]: log-sum-exp minus the mean logit; where it was asked for."""

    def best(self) -> Tensor:
        """The first largest per row, int64 [N]; zeros where it was not asked for."""


def totals(
    num_rows: int, device: torch.device, *, times: Tensor | None = None, entropy: bool = False, best: bool = False
) -> Totals:
    """Of logits times `times` [N] (None: 1), with what is asked for; the largest is that of the logits themselves."""
    ours = kernels() if device.type == "cpu" else None
    if ours is not None:
        return _Compiled(ours, num_rows, times, entropy, best)
    return _Plain(num_rows, device, times, entropy, best)


class _Compiled:
    """By the compiled kernels, a row in one pass."""

    def __init__(self, ours: Kernels, num_rows: int, times: Tensor | None, entropy: bool, best: bool) -> None:
        self._ours, self._times, self._entropy = ours, times, entropy
        self._running_N3 = torch.tensor([[-torch.inf, 0.0, 0.0]]).repeat(num_rows, 1)
        self._value = torch.full((num_rows,), -torch.inf) if best else None
        self._place = torch.zeros(num_rows, dtype=torch.int64)

    def add(self, chunk_NC: Tensor, scratch_NC: Tensor, start: int) -> None:
        """As `Totals.add`; nothing is overwritten."""
        best = Best(self._value, self._place, start) if self._value is not None else None
        self._ours.add_chunk(chunk_NC, self._running_N3, times=self._times, weighted=self._entropy, best=best)

    def total(self) -> Tensor:
        """As `Totals.total`."""
        return self._ours.finish(self._running_N3)[0]

    def entropy(self) -> Tensor:
        """As `Totals.entropy`."""
        return self._ours.finish(self._running_N3)[1]

    def best(self) -> Tensor:
        """As `Totals.best`."""
        return self._place


class _Plain:
    """By torch's kernels."""

    def __init__(self, num_rows: int, device: torch.device, times: Tensor | None, entropy: bool, best: bool) -> None:
        self._times = times
        self._highest = torch.full((num_rows, 1), -torch.inf, device=device)
        self._sum = torch.zeros((num_rows, 1), device=device)
        self._weighted = torch.zeros((num_rows, 1), device=device) if entropy else None
        self._value = torch.full((num_rows,), -torch.inf, device=device) if best else None
        self._place = torch.zeros((num_rows,), dtype=torch.long, device=device)

    def add(self, chunk_NC: Tensor, scratch_NC: Tensor, start: int) -> None:
        """As `Totals.add`."""
        if self._value is not None:
            value, index = chunk_NC.max(1)
            better = value > self._value
            self._value = torch.where(better, value, self._value)
            self._place = torch.where(better, index + start, self._place)
        if self._times is not None:
            # a second buffer would fall out of the cache; the tempered chunk is cheap to make twice
            chunk_NC = chunk_NC * self._times[:, None]
        highest = torch.maximum(self._highest, chunk_NC.amax(1, keepdim=True))
        shrink = (self._highest - highest).exp_()
        torch.sub(chunk_NC, highest, out=scratch_NC).exp_()
        self._sum = self._sum * shrink + scratch_NC.sum(1, keepdim=True)
        if self._weighted is not None:
            self._weighted = self._weighted * shrink + scratch_NC.mul_(chunk_NC).sum(1, keepdim=True)
        self._highest = highest

    def total(self) -> Tensor:
        """As `Totals.total`."""
        return (self._highest + self._sum.log())[:, 0]

    def entropy(self) -> Tensor:
        """As `Totals.entropy`."""
        assert self._weighted is not None
        return (self.total() - (self._weighted / self._sum)[:, 0]).clamp_(min=0.0)

    def best(self) -> Tensor:
        """As `Totals.best`."""
        return self._place
