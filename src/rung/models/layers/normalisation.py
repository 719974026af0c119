"""Root-mean-square normalisation (Zhang and Sennrich 2019), in Llama's and in Gemma's reading."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rung.models.native.kernels import layer_kernels

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """x / rms(x) times a gain over the last dimension, computed in float32 whatever the input's type.

    Args:
        width: size of the last dimension.
        epsilon: added to the mean square.
        centred: Gemma stores gain - 1 and multiplies before rounding; Llama stores the gain and multiplies after.
    """

    def __init__(self, width: int, epsilon: float, centred: bool = False) -> None:
        super().__init__()
        self.epsilon, self.centred = epsilon, centred
        self.weight = nn.Parameter(torch.zeros(width) if centred else torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type as `x`."""
        width = self.weight.shape
        if ours := layer_kernels(x, self.weight):
            return ours.rms_norm(x, self.weight, self.epsilon, self.centred)
        if self.centred:
            return functional.rms_norm(x.float(), width, 1.0 + self.weight.float(), self.epsilon).type_as(x)
        if x.dtype == torch.float32 == self.weight.dtype:
            return functional.rms_norm(x, width, self.weight, self.epsilon)
        return self.weight * functional.rms_norm(x.float(), width, None, self.epsilon).type_as(x)
