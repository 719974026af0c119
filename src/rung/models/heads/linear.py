"""One linear map from the hidden state to the outputs: what reward models usually have.

Legend: N answer, D width, K output.

The hidden state is brought to mean 0 and deviation 1 first (a layer norm without parameters), so that one learning rate
suits models whose final states differ in size. Weights begin at zero: an untrained output is 0 for every answer, and an
output that no loss reaches stays so.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rung.base.settings import Settings

__all__ = ["LinearHead"]


class LinearSettings(Settings):
    """There is nothing to set."""


class LinearHead(nn.Module):
    """Outputs [N, K] of hidden states [N, D]."""

    Settings = LinearSettings

    def __init__(self, settings: LinearSettings, width: int, num_outputs: int, seed: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_outputs, width))
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """The outputs, in float32."""
        normal_ND = functional.layer_norm(hidden_ND.float(), hidden_ND.shape[-1:])
        return functional.linear(normal_ND, self.weight, self.bias)
