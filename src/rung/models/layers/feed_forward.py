"""Feed-forward layers: gated (Shazeer 2020, "GLU variants improve Transformer"), and the two plain ones of GPT."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from rung.models.layers.projection import project, project_all
from rung.models.native.gradients import gated
from rung.models.native.kernels import layer_kernels, trained_kernels

__all__ = ["Activation", "GatedFeedForward", "PlainFeedForward"]

Activation = Literal["silu", "gelu_tanh"]


class GatedFeedForward(nn.Module):
    """down(activation(gate(x)) * up(x)); Llama gates with SiLU, Gemma with GELU in its tanh approximation."""

    def __init__(self, width: int, inner_width: int, activation: Activation, bias: bool = False) -> None:
        super().__init__()
        self.activation = activation
        self.gate_proj = nn.Linear(width, inner_width, bias=bias)
        self.up_proj = nn.Linear(width, inner_width, bias=bias)
        self.down_proj = nn.Linear(inner_width, width, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        gate, up = project_all((self.gate_proj, self.up_proj), x_BTD)
        gelu = self.activation == "gelu_tanh"
        if ours := layer_kernels(gate, up):
            return project(self.down_proj, ours.gated(gate, up, gelu))
        if ours := trained_kernels(gate, up):
            return project(self.down_proj, gated(ours, gate, up, gelu))
        opened = functional.silu(gate) if self.activation == "silu" else functional.gelu(gate, approximate="tanh")
        return project(self.down_proj, opened * up)


class PlainFeedForward(nn.Module):
    """down(gelu(up(x))) with biases, GELU in its tanh approximation."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(width, inner_width)
        self.down_proj = nn.Linear(inner_width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        return project(self.down_proj, functional.gelu(project(self.up_proj, x_BTD), approximate="tanh"))
