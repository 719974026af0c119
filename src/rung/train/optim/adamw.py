"""AdamW (Loshchilov and Hutter, 2019), torch's own. Vectors (norms, biases) are not decayed; matrices are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from rung.base.settings import Field, Settings

__all__ = ["AdamW"]


class AdamWSettings(Settings):
    """The moments, the decay and the guard against division by zero."""

    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of the second moment")
    epsilon: float = Field(1e-8, gt=0, le=1e-3, description="added to the root of the second moment")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled weight decay of matrices")


class AdamW:
    """Builds the optimizer over named parameters, in their order."""

    Settings = AdamWSettings

    def __init__(self, settings: AdamWSettings) -> None:
        self.settings = settings

    def build(self, named: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer whose learning rate the step sets before each update."""
        kept = list(named.values())
        groups = [
            {"params": [p for p in kept if p.ndim > 1], "weight_decay": self.settings.weight_decay},
            {"params": [p for p in kept if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [g for g in groups if g["params"]],
            lr=0.0,
            betas=(self.settings.beta1, self.settings.beta2),
            eps=self.settings.epsilon,
            fused=True,
        )
