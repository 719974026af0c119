"""The compiled kernels between a layer's products, with their gradients, for training in bfloat16 on a processor.

What torch does in four to six passes over memory (and keeps as many results for) is one pass, and what is kept is what
came in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rung.models.native.kernels import Kernels

__all__ = ["gated", "rotated"]


def gated(ours: Kernels, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    """activation(gate) * up, as `Kernels.gated`, with gradients for both."""
    out: Tensor = _Gated.apply(ours, gate, up, gelu)  # type: ignore[no-untyped-call]
    return out


def rotated(ours: Kernels, x_BTHd: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`rung.models.layers.rotary.rotate` with a gradient for x."""
    out: Tensor = _Rotated.apply(ours, x_BTHd, cosine, sine)  # type: ignore[no-untyped-call]
    return out


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ours: Kernels, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        ctx.ours, ctx.gelu = ours, gelu
        return ours.gated(gate, up, gelu)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        return None, *ctx.ours.gated_back(gate, up, gradients[0].contiguous(), ctx.gelu), None


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ours: Kernels, x_BTHd: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.ours = ours
        return ours.rotate(x_BTHd, cosine, sine)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cosine, sine = ctx.saved_tensors
        return None, ctx.ours.rotate(gradients[0], cosine, -sine), None, None
