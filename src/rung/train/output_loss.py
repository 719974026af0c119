"""The output projection and its cross-entropy in one pass over the vocabulary, without ever holding the logits.

Legend: N target token, C vocabulary entries of a chunk, V vocabulary, D width.

Softmax is taken online, as attention kernels do it (Milakov and Gimelshein, 2018, "Online normalizer calculation for
softmax"): for each chunk of the vocabulary the logits [C, N] are made, exponentiated against a running maximum, and
folded into the gradient of the hidden states at once. Memory is one [C, N] buffer instead of [N, V] logits, their
log-softmax and its gradient; with a frozen output weight only two matrix products are spent, as in the plain way.
A trained output weight costs a third, which remakes the chunk once the normaliser is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["OutputLoss", "output_loss", "target_logprobs"]

# Measured on two AVX2 cores with V 262144 and D 640: 2048 rows at a time run at 120-150 GFLOP/s into a reused buffer,
# one product over the whole vocabulary at 30-90. An accelerator prefers fewer, larger launches.
_ROWS_CPU, _ROWS_ACCELERATOR, _TOKENS = 2048, 16384, 1024


@dataclass(frozen=True, slots=True)
class OutputLoss:
    """`total` is the weighted sum over targets (differentiable), `losses` [N] each target's own in nats (detached)."""

    total: Tensor
    losses: Tensor


def output_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    *,
    softcap: float = 0.0,
    smoothing: float = 0.0,
) -> OutputLoss:
    """Weighted cross-entropy of `hidden_ND @ weight_VD.T` (after the soft cap) against the targets.

    `smoothing` mixes the target with the uniform distribution as torch's `label_smoothing` does. `weights_N` are
    constants: no gradient flows into them. Gradients go to the hidden states, and to the weight if it requires one.
    """
    total, losses_N = _Function.apply(hidden_ND, weight_VD, targets_N, weights_N, softcap, smoothing)  # type: ignore[no-untyped-call]
    return OutputLoss(total, losses_N)


def target_logprobs(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, softcap: float = 0.0) -> Tensor:
    """The log-probability [N] of each target, in nats, differentiable each by itself.

    The same chunks and the same memory as `output_loss`; for losses that are no weighted sum over targets. A trained
    output weight costs one more pass, in the backward.
    """
    logprobs_N: Tensor = _PerTarget.apply(hidden_ND, weight_VD, targets_N, softcap)  # type: ignore[no-untyped-call]
    return logprobs_N


class _Function(torch.autograd.Function):
    """Works out the gradients in the forward pass, while the chunk is in the cache; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, *numbers: float
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum of losses, and the losses [N]."""
        softcap, smoothing = numbers
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        losses_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        grad_hidden = torch.empty_like(hidden_ND) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        for part in _parts(targets_N):
            piece = _Piece(hidden_ND[part], weight_VD, targets_N[part], softcap, smoothing)
            losses_N[part] = piece.scan(needs_hidden)
            if grad_hidden is not None:
                grad_hidden[part] = piece.hidden_gradient() * weights_N[part, None]
            if grad_weight is not None:
                piece.add_weight_gradient(grad_weight, weights_N[part])
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight_VD.dtype))
        ctx.mark_non_differentiable(losses_N)
        return (losses_N * weights_N).sum(), losses_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The kept gradients, scaled."""
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = gradients[0]
        return (
            None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype),
            None if grad_weight is None else grad_weight * scale.to(grad_weight.dtype),
            None,
            None,
            None,
            None,
        )


class _PerTarget(torch.autograd.Function):
    """As `_Function`, with the incoming gradient of each target known only in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float) -> Tensor:
        """The log-probabilities [N]; keeps their gradients with respect to the hidden states."""
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        logprobs_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        slopes_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        for part in _parts(targets_N):
            piece = _Piece(hidden_ND[part], weight_VD, targets_N[part], softcap, 0.0)
            logprobs_N[part] = -piece.scan(needs_hidden)
            if slopes_ND is not None:
                slopes_ND[part] = -piece.hidden_gradient()
        ctx.save_for_backward(slopes_ND, *((hidden_ND, weight_VD, targets_N) if needs_weight else ()))
        ctx.softcap = softcap
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The kept gradients, each scaled by its own; the output weight's is worked out here."""
        slopes_ND, *kept = ctx.saved_tensors
        scale_N, grad_weight = gradients[0], None
        if kept:
            hidden_ND, weight_VD, targets_N = kept
            grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32)
            for part in _parts(targets_N):
                piece = _Piece(hidden_ND[part], weight_VD, targets_N[part], ctx.softcap, 0.0)
                piece.scan(False)
                piece.add_weight_gradient(grad_weight, -scale_N[part])
            grad_weight = grad_weight.to(weight_VD.dtype)
        grad_hidden = None if slopes_ND is None else slopes_ND * scale_N[:, None].to(slopes_ND.dtype)
        return grad_hidden, grad_weight, None, None


def _parts(targets_N: Tensor) -> list[slice]:
    return [slice(start, start + _TOKENS) for start in range(0, len(targets_N), _TOKENS)]


class _Piece:
    """Some of the targets against the whole vocabulary, chunk by chunk."""

    def __init__(
        self, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float, smoothing: float
    ) -> None:
        self.hidden_ND, self.weight_VD, self.targets_N = hidden_ND.to(weight_VD.dtype), weight_VD, targets_N
        self.softcap, self.smoothing = softcap, smoothing
        num_targets, device = len(targets_N), hidden_ND.device
        self.rows = _ROWS_CPU if device.type == "cpu" else _ROWS_ACCELERATOR
        self.buffer_CN = torch.empty(min(self.rows, len(weight_VD)), num_targets, dtype=torch.float32, device=device)
        self.spare_CN = torch.empty_like(self.buffer_CN) if softcap else self.buffer_CN
        target_rows_ND = weight_VD[targets_N]
        logits_N = (self.hidden_ND * target_rows_ND).sum(1, dtype=torch.float32)
        self.target_rows_ND = target_rows_ND.float()
        self.target_logits_N, self.target_slopes_N = logits_N, None
        if softcap:
            squashed_N = torch.tanh(logits_N / softcap)
            self.target_logits_N, self.target_slopes_N = squashed_N * softcap, 1 - squashed_N * squashed_N
        self.peak_N = torch.full((num_targets,), -torch.inf, device=device)
        self.sum_N, self.logit_sum_N = torch.zeros(2, num_targets, device=device)
        self.expected_ND = torch.zeros(hidden_ND.shape, device=device)  # sum over v of exp(logit - peak) * weight_v
        self.uniform_ND = torch.zeros_like(self.expected_ND) if smoothing else None

    def scan(self, with_gradient: bool) -> Tensor:
        """One pass over the vocabulary; returns the loss of each target."""
        for start in range(0, len(self.weight_VD), self.rows):
            weight_CD = self.weight_VD[start : start + self.rows]
            logits_CN, slopes_CN = self._logits(weight_CD)
            if self.smoothing:
                self._add_uniform(logits_CN, slopes_CN, weight_CD)
            peak_N = torch.maximum(self.peak_N, logits_CN.amax(0))
            shrink_N = torch.exp(self.peak_N - peak_N)
            terms_CN = logits_CN.sub_(peak_N).exp_()
            self.sum_N.mul_(shrink_N).add_(terms_CN.sum(0))
            self.peak_N = peak_N
            if with_gradient:
                pulled_CN = terms_CN if slopes_CN is None else terms_CN.mul_(slopes_CN)
                self._fold(self.expected_ND.mul_(shrink_N[:, None]), pulled_CN, weight_CD)
        self.normaliser_N = self.peak_N + self.sum_N.log()
        mean_logit_N = self.logit_sum_N / len(self.weight_VD)
        keep = 1 - self.smoothing
        losses_N: Tensor = self.normaliser_N - keep * self.target_logits_N - self.smoothing * mean_logit_N
        return losses_N

    def hidden_gradient(self) -> Tensor:
        """Gradient of each target's loss with respect to its hidden state [N, D]."""
        own_ND = self.target_rows_ND * (1 - self.smoothing)
        if self.target_slopes_N is not None:
            own_ND = own_ND * self.target_slopes_N[:, None]
        gradient_ND: Tensor = self.expected_ND / self.sum_N[:, None] - own_ND
        if self.uniform_ND is not None:
            gradient_ND -= self.uniform_ND * (self.smoothing / len(self.weight_VD))
        return gradient_ND

    def add_weight_gradient(self, gradient_VD: Tensor, weights_N: Tensor) -> None:
        """Add the gradient of the weighted losses with respect to the output weight."""
        weighted_ND = self.hidden_ND.float() * weights_N[:, None]
        for start in range(0, len(self.weight_VD), self.rows):
            logits_CN, slopes_CN = self._logits(self.weight_VD[start : start + self.rows])
            shares_CN = logits_CN.sub_(self.normaliser_N).exp_().sub_(self.smoothing / len(self.weight_VD))
            shares_CN = shares_CN if slopes_CN is None else shares_CN.mul_(slopes_CN)
            gradient_VD[start : start + self.rows].addmm_(shares_CN, weighted_ND)
        own_ND = weighted_ND * (1 - self.smoothing)
        if self.target_slopes_N is not None:
            own_ND = own_ND * self.target_slopes_N[:, None]
        gradient_VD.index_add_(0, self.targets_N, own_ND, alpha=-1)

    def _logits(self, weight_CD: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of a chunk, and the slope of the soft cap at each when there is one (both in reused buffers)."""
        buffer_CN = self.buffer_CN[: len(weight_CD)]
        if weight_CD.dtype == torch.float32:
            torch.mm(weight_CD, self.hidden_ND.T, out=buffer_CN)
        else:
            buffer_CN.copy_(weight_CD @ self.hidden_ND.T)
        if not self.softcap:
            return buffer_CN, None
        slopes_CN = self.spare_CN[: len(weight_CD)]
        buffer_CN.div_(self.softcap).tanh_()
        torch.mul(buffer_CN, buffer_CN, out=slopes_CN).neg_().add_(1)
        return buffer_CN.mul_(self.softcap), slopes_CN

    def _add_uniform(self, logits_CN: Tensor, slopes_CN: Tensor | None, weight_CD: Tensor) -> None:
        assert self.uniform_ND is not None
        self.logit_sum_N += logits_CN.sum(0)
        if slopes_CN is None:
            self.uniform_ND += weight_CD.sum(0, dtype=torch.float32)
        else:
            self._fold(self.uniform_ND, slopes_CN, weight_CD)

    @staticmethod
    def _fold(into_ND: Tensor, shares_CN: Tensor, weight_CD: Tensor) -> None:
        """Add shares.T @ weight; low-precision weights are multiplied in their own precision, summed in float32."""
        if weight_CD.dtype == torch.float32:
            into_ND.addmm_(shares_CN.T, weight_CD)
        else:
            into_ND += shares_CN.T.to(weight_CD.dtype) @ weight_CD
