"""The output projection and its cross-entropy in one pass over the vocabulary, without ever holding the logits.

Legend: N target token, C vocabulary entries of a chunk, V vocabulary, U entries of it that are looked at, D width.

Softmax is taken online, as attention kernels do it (Milakov and Gimelshein, 2018, "Online normalizer calculation for
softmax"): for each chunk of the vocabulary the logits [C, N] are made, exponentiated against a running maximum, and
folded into the gradient of the hidden states at once. Memory is one [C, N] buffer instead of [N, V] logits, their
log-softmax and its gradient; with a frozen output weight only two matrix products are spent, as in the plain way.
A trained output weight costs a third, which remakes the chunk once the normaliser is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rung.base.errors import DataError
from rung.records.rollout import Support

__all__ = ["OutputLoss", "output_loss", "sampling_logprobs", "target_logprobs"]

# Measured on two AVX2 cores with V 262144 and D 640: 2048 rows at a time run at 120-150 GFLOP/s into a reused buffer,
# one product over the whole vocabulary at 30-90. An accelerator prefers fewer, larger launches.
_ROWS_CPU, _ROWS_ACCELERATOR, _TOKENS = 2048, 16384, 1024
_LOWEST = -1e30


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
    Under autocast all products are in its type, as a linear layer's are.
    """
    form = _Form(softcap, smoothing, narrow=_narrow(hidden_ND))
    with torch.autocast(hidden_ND.device.type, enabled=False):
        total, losses_N = _Function.apply(hidden_ND, weight_VD, targets_N, weights_N, form)  # type: ignore[no-untyped-call]
    return OutputLoss(total, losses_N)


def target_logprobs(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, softcap: float = 0.0) -> Tensor:
    """The log-probability [N] of each target, in nats, differentiable each by itself.

    The same chunks and the same memory as `output_loss`; for losses that are no weighted sum over targets. A trained
    output weight costs one more pass, in the backward.
    """
    return _per_target(hidden_ND, weight_VD, targets_N, _Shaping(softcap, narrow=_narrow(hidden_ND)))


def sampling_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    softcap: float = 0.0,
    inverse_temperature: float | Tensor = 1.0,
    supports: Sequence[Support | None] = (),
) -> Tensor:
    """`target_logprobs` of what a sampler draws from: logits over the temperature, among the tokens of each support.

    `inverse_temperature` is one number or one per target; `supports` are one per target (None: the whole vocabulary)
    or none at all. Where many supports are small, only the rows of the output weight that any of them names are
    multiplied; a token that was the only one possible has log-probability 0 and costs nothing. Under autocast all
    products are in its type: a sampler that reads the weights in that type rounds its logits in the same way.

    Raises:
        DataError: another number of supports than of targets, or a target outside its own.
    """
    num, scale_N, narrow = len(targets_N), None, _narrow(hidden_ND)
    if isinstance(inverse_temperature, Tensor) or inverse_temperature != 1.0:
        scale_N = torch.as_tensor(inverse_temperature, dtype=torch.float32, device=hidden_ND.device).expand(num)
    if all(support is None for support in supports):
        return _per_target(hidden_ND, weight_VD, targets_N, _Shaping(softcap, scale_N, (), narrow))
    _check_supports(supports, targets_N)
    order = _order(supports)
    order_M = torch.tensor(order, dtype=torch.long, device=hidden_ND.device)
    scale_M = None if scale_N is None else scale_N[order_M]
    shaping = _Shaping(softcap, scale_M, tuple(supports[i] for i in order), narrow)
    found_M = _per_target(hidden_ND.index_select(0, order_M), weight_VD, targets_N[order_M], shaping)
    return found_M.new_zeros(num).index_copy(0, order_M, found_M)


def _narrow(hidden_ND: Tensor) -> torch.dtype | None:
    """What autocast multiplies in here; None where it is off."""
    kind = hidden_ND.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _order(supports: Sequence[Support | None]) -> list[int]:
    """Targets whose token was open: those without a support first, then by size, so that neighbours look at few."""
    sizes = {place: len(support) if support is not None else 0 for place, support in enumerate(supports)}
    return sorted((place for place, size in sizes.items() if size != 1), key=lambda place: sizes[place])


def _check_supports(supports: Sequence[Support | None], targets_N: Tensor) -> None:
    if len(supports) != len(targets_N):
        raise DataError(f"{len(supports)} supports for {len(targets_N)} targets", place="supports")
    for place, (support, target) in enumerate(zip(supports, targets_N.tolist(), strict=True)):
        if support is not None and target not in support:
            raise DataError(f"target {place} (id {target}) is outside its own support", place="supports")


class _Function(torch.autograd.Function):
    """Works out the gradients in the forward pass, while the chunk is in the cache; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, *how: _Form
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum of losses, and the losses [N]."""
        (form,) = how
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        losses_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        grad_hidden = torch.empty_like(hidden_ND) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        for part in _Shaping().parts(len(targets_N)):
            piece = _Piece(hidden_ND[part], weight_VD, targets_N[part], form)
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
        )


@dataclass(frozen=True, slots=True)
class _Shaping:
    """What is between the raw logits and the distribution: `scales` [N] are inverse temperatures (None: all 1),
    `supports` the tokens that may be drawn at each target (empty: all), those without one first. All is multiplied in
    the type `narrow` (None: as the weight)."""

    softcap: float = 0.0
    scales: Tensor | None = None
    supports: tuple[Support | None, ...] = ()
    narrow: torch.dtype | None = None

    def parts(self, num_targets: int) -> list[slice]:
        """Slices of the targets that are worked on together; none has targets with and without a support."""
        num_open = sum(support is None for support in self.supports) if self.supports else num_targets
        return [
            slice(start, min(start + _TOKENS, stop))
            for first, stop in ((0, num_open), (num_open, num_targets))
            for start in range(first, stop, _TOKENS)
        ]

    def form(self, part: slice, weight_VD: Tensor) -> _Form:
        """The same for some of the targets."""
        supports = [support for support in self.supports[part] if support is not None]
        return _Form(
            softcap=self.softcap,
            scales=None if self.scales is None else self.scales[part],
            allowed=_allowed(supports, len(weight_VD), weight_VD.device) if supports else None,
            narrow=self.narrow,
        )


def _per_target(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, shaping: _Shaping) -> Tensor:
    with torch.autocast(hidden_ND.device.type, enabled=False):
        logprobs_N: Tensor = _PerTarget.apply(hidden_ND, weight_VD, targets_N, shaping)  # type: ignore[no-untyped-call]
    return logprobs_N


class _PerTarget(torch.autograd.Function):
    """As `_Function`, with the incoming gradient of each target known only in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, shaping: _Shaping) -> Tensor:
        """The log-probabilities [N]; keeps their gradients with respect to the hidden states."""
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        logprobs_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        normalisers_N = torch.empty_like(logprobs_N)
        slopes_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        for part in shaping.parts(len(targets_N)):
            piece = _Piece(hidden_ND[part], weight_VD, targets_N[part], shaping.form(part, weight_VD))
            logprobs_N[part] = -piece.scan(needs_hidden)
            normalisers_N[part] = piece.normaliser_N
            if slopes_ND is not None:
                slopes_ND[part] = -piece.hidden_gradient()
        ctx.save_for_backward(slopes_ND, *((hidden_ND, weight_VD, targets_N, normalisers_N) if needs_weight else ()))
        ctx.shaping = shaping
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The kept gradients, each scaled by its own; the output weight's is worked out here."""
        slopes_ND, *kept = ctx.saved_tensors
        scale_N, grad_weight = gradients[0], None
        if kept:
            hidden_ND, weight_VD, targets_N, normalisers_N = kept
            grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32)
            for part in ctx.shaping.parts(len(targets_N)):
                piece = _Piece(hidden_ND[part], weight_VD, targets_N[part], ctx.shaping.form(part, weight_VD))
                piece.normaliser_N = normalisers_N[part]
                piece.add_weight_gradient(grad_weight, -scale_N[part])
            grad_weight = grad_weight.to(weight_VD.dtype)
        grad_hidden = None if slopes_ND is None else slopes_ND * scale_N[:, None].to(slopes_ND.dtype)
        return grad_hidden, grad_weight, None, None


@dataclass(frozen=True, slots=True)
class _Allowed:
    """What some targets may be: the entries of the vocabulary that any of them may (`ids` [U]; None: all entries), and
    for each of these one bit per target, eight entries to a byte (`bits` [U / 8, N])."""

    ids: Tensor | None
    bits: Tensor

    def mask(self, start: int, num: int) -> Tensor:
        """True where entries `start` to `start + num` of U may be drawn, [C, N]; `start` is a multiple of 8."""
        bytes_BN = self.bits[start // 8 : -(-(start + num) // 8)]
        shifts_8 = torch.arange(7, -1, -1, dtype=torch.uint8, device=bytes_BN.device)[:, None]
        return ((bytes_BN[:, None] >> shifts_8) & 1).flatten(0, 1)[:num].bool()


def _allowed(supports: Sequence[Support], vocabulary: int, device: torch.device) -> _Allowed:
    seen_V = np.zeros(vocabulary, bool)
    for support in supports:
        seen_V[support.ids()] = True
    # Rows of the weight that are picked are copied, chunk by chunk, so it must be few of them.
    picked = np.flatnonzero(seen_V) if 2 * int(seen_V.sum()) < vocabulary else None
    masks = (support.mask(vocabulary) for support in supports)
    packed = np.stack([np.packbits(mask if picked is None else mask[picked]) for mask in masks], axis=1)
    ids_U = None if picked is None else torch.from_numpy(picked).to(device)
    return _Allowed(ids_U, torch.from_numpy(packed).to(device))


@dataclass(frozen=True, slots=True)
class _Form:
    """What a piece makes of raw logits, and the type that it multiplies in (`narrow`; None: the weight's)."""

    softcap: float = 0.0
    smoothing: float = 0.0
    scales: Tensor | None = None
    allowed: _Allowed | None = None
    narrow: torch.dtype | None = None


class _Piece:
    """Some of the targets against the whole vocabulary, chunk by chunk."""

    def __init__(self, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, form: _Form) -> None:
        self.kind = form.narrow or weight_VD.dtype
        self.hidden_ND, self.weight_VD, self.targets_N = hidden_ND.to(self.kind), weight_VD, targets_N
        softcap, smoothing = self.softcap, self.smoothing = form.softcap, form.smoothing
        self.scales_N, self.allowed, self.narrow = form.scales, form.allowed, form.narrow
        num_targets, device = len(targets_N), hidden_ND.device
        self.ids_U = self.allowed.ids if self.allowed is not None else None
        self.size = len(weight_VD) if self.ids_U is None else len(self.ids_U)
        self.rows = _ROWS_CPU if device.type == "cpu" else _ROWS_ACCELERATOR
        self.buffer_CN = torch.empty(min(self.rows, self.size), num_targets, dtype=torch.float32, device=device)
        self.spare_CN = torch.empty_like(self.buffer_CN) if softcap else self.buffer_CN
        self.target_rows_ND = weight_VD[targets_N].to(self.kind).float()
        # rounded as the products round, or a target's logit would not be one of those that it is compared with
        logits_N = (self.hidden_ND.float() * self.target_rows_ND).sum(1).to(self.kind).float()
        self.target_logits_N, self.target_slopes_N = logits_N, None
        if softcap:
            squashed_N = torch.tanh(logits_N / softcap)
            self.target_logits_N, self.target_slopes_N = squashed_N * softcap, 1 - squashed_N * squashed_N
        if self.scales_N is not None:
            self.target_logits_N = self.target_logits_N * self.scales_N
        # Finite: a chunk in which nothing is allowed leaves it as it is, and the difference of two infinities is none.
        self.peak_N = torch.full((num_targets,), _LOWEST, device=device)
        self.sum_N, self.logit_sum_N = torch.zeros(2, num_targets, device=device)
        self.expected_ND = torch.zeros(hidden_ND.shape, device=device)  # sum over v of exp(logit - peak) * weight_v
        self.uniform_ND = torch.zeros_like(self.expected_ND) if smoothing else None

    def scan(self, with_gradient: bool) -> Tensor:
        """One pass over the vocabulary; returns the loss of each target."""
        for start in range(0, self.size, self.rows):
            weight_CD, _ = self._entries(start)
            logits_CN, slopes_CN = self._logits(start, weight_CD)
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
        if self.scales_N is not None:
            gradient_ND *= self.scales_N[:, None]
        return gradient_ND

    def add_weight_gradient(self, gradient_VD: Tensor, weights_N: Tensor) -> None:
        """Add the gradient of the weighted losses with respect to the output weight."""
        scaled_N = weights_N if self.scales_N is None else weights_N * self.scales_N
        weighted_ND = self.hidden_ND.float() * scaled_N[:, None]
        # weights that are narrow themselves have their gradient summed from wide products, unless all is narrow
        narrow = self.narrow or torch.float32
        factor_ND = weighted_ND.to(narrow)
        for start in range(0, self.size, self.rows):
            weight_CD, ids_C = self._entries(start)
            logits_CN, slopes_CN = self._logits(start, weight_CD)
            shares_CN = logits_CN.sub_(self.normaliser_N).exp_().sub_(self.smoothing / len(self.weight_VD))
            shares_CN = shares_CN if slopes_CN is None else shares_CN.mul_(slopes_CN)
            if ids_C is not None:
                gradient_VD.index_add_(0, ids_C, (shares_CN.to(narrow) @ factor_ND).float())
            elif narrow == torch.float32:
                gradient_VD[start : start + self.rows].addmm_(shares_CN, weighted_ND)
            else:
                gradient_VD[start : start + self.rows] += shares_CN.to(narrow) @ factor_ND
        own_ND = weighted_ND * (1 - self.smoothing)
        if self.target_slopes_N is not None:
            own_ND = own_ND * self.target_slopes_N[:, None]
        gradient_VD.index_add_(0, self.targets_N, own_ND, alpha=-1)

    def _entries(self, start: int) -> tuple[Tensor, Tensor | None]:
        """Rows of the output weight of a chunk, and which they are unless they are simply the next ones."""
        if self.ids_U is None:
            return self.weight_VD[start : start + self.rows].to(self.kind), None
        ids_C = self.ids_U[start : start + self.rows]
        return self.weight_VD.index_select(0, ids_C).to(self.kind), ids_C

    def _logits(self, start: int, weight_CD: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of a chunk, and the slope of the soft cap at each when there is one (both in reused buffers)."""
        buffer_CN = self.buffer_CN[: len(weight_CD)]
        if weight_CD.dtype == torch.float32:
            torch.mm(weight_CD, self.hidden_ND.T, out=buffer_CN)
        else:
            buffer_CN.copy_(weight_CD @ self.hidden_ND.T)
        slopes_CN = self.spare_CN[: len(weight_CD)] if self.softcap else None
        if slopes_CN is not None:
            buffer_CN.div_(self.softcap).tanh_()
            torch.mul(buffer_CN, buffer_CN, out=slopes_CN).neg_().add_(1)
            buffer_CN.mul_(self.softcap)
        if self.scales_N is not None:
            buffer_CN.mul_(self.scales_N)
        if self.allowed is not None:
            buffer_CN.masked_fill_(~self.allowed.mask(start, len(weight_CD)), -torch.inf)
        return buffer_CN, slopes_CN

    def _add_uniform(self, logits_CN: Tensor, slopes_CN: Tensor | None, weight_CD: Tensor) -> None:
        assert self.uniform_ND is not None
        self.logit_sum_N += logits_CN.sum(0)
        if slopes_CN is None:
            self.uniform_ND += weight_CD.sum(0, dtype=torch.float32)
        else:
            self._fold(self.uniform_ND, slopes_CN, weight_CD)

    def _fold(self, into_ND: Tensor, shares_CN: Tensor, weight_CD: Tensor) -> None:
        """Add shares.T @ weight, summed in float32."""
        if self.kind == torch.float32:
            into_ND.addmm_(shares_CN.T, weight_CD)
        else:
            into_ND += shares_CN.to(self.kind).T @ weight_CD
