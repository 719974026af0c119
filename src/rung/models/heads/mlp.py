"""One hidden layer between the hidden state and the outputs, for what is not linear in a frozen model's states.

Legend: N answer, D width, M inner width, K output.

As `linear`: the state is normalised first and the last matrix begins at zero. The first is drawn from the seed alone.
The inner layer is shared, so an output that no loss reaches still moves with it once its own weights are not zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rung.base.seeds import derive
from rung.base.settings import Field, Settings

__all__ = ["MlpHead"]


class MlpSettings(Settings):
    """How wide, and how much is dropped while training."""

    inner_width: int = Field(256, ge=1, le=65536, description="units of the hidden layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the hidden layer, in training alone")


class MlpHead(nn.Module):
    """Outputs [N, K] of hidden states [N, D]."""

    Settings = MlpSettings

    def __init__(self, settings: MlpSettings, width: int, num_outputs: int, seed: int = 0) -> None:
        super().__init__()
        self.dropout = settings.dropout
        drawn = torch.Generator().manual_seed(derive(seed, "head", "mlp"))
        first_MD = torch.randn(settings.inner_width, width, generator=drawn) * width**-0.5
        self.inner = nn.Parameter(first_MD)
        self.inner_bias = nn.Parameter(torch.zeros(settings.inner_width))
        self.weight = nn.Parameter(torch.zeros(num_outputs, settings.inner_width))
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """The outputs, in float32."""
        normal_ND = functional.layer_norm(hidden_ND.float(), hidden_ND.shape[-1:])
        inner_NM = functional.gelu(functional.linear(normal_ND, self.inner, self.inner_bias))
        dropped_NM = functional.dropout(inner_NM, self.dropout, self.training)
        return functional.linear(dropped_NM, self.weight, self.bias)
