"""A distribution per attribute instead of a point: quantiles by pinball loss (Koenker and Bassett, 1978).

Legend: C answer, A attribute, L level, K output (A times L).

For the levels (2j - 1) / (2N), u = label - quantile and the loss u (level - [u < 0]), averaged over levels (QRM,
arXiv 2409.10164). Quantiles cannot cross: the middle one is an output of its own, and each further one lies a softplus
away from its neighbour. The spread is that of labels for such an answer; it does not say how sure the model is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rung.base.settings import Field, Settings
from rung.train.reward_rows import RewardLabels

__all__ = ["Quantile"]


class QuantileSettings(Settings):
    """How many levels, and how much each attribute counts."""

    num_levels: int = Field(9, ge=1, le=99, description="quantiles of each attribute")
    weights: Mapping[str, float] = Field(default={}, description="weight by attribute; one that is not named counts 1")


class Quantile:
    """A pure function of outputs; it holds nothing but its settings."""

    Settings = QuantileSettings
    reads: Literal["pairs", "labels"] = "labels"

    def __init__(self, settings: QuantileSettings) -> None:
        self.settings = settings

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels, from the lowest."""
        number = self.settings.num_levels
        return tuple((2 * j - 1) / (2 * number) for j in range(1, number + 1))

    def num_outputs(self, num_attributes: int) -> int:
        """One per attribute and level."""
        return num_attributes * self.settings.num_levels

    def label_weights(self, labels: RewardLabels) -> Tensor:
        """The attribute's weight where there is a label, answer after answer."""
        weights_A = labels.values.new_tensor([self.settings.weights.get(name, 1.0) for name in labels.attributes])
        return (~labels.values.isnan() * weights_A).flatten()

    def answer_losses(self, outputs_CK: Tensor, labels: RewardLabels) -> Tensor:
        """The pinball loss of each label, the mean over levels."""
        quantiles_CAL = self.values(outputs_CK)
        known_CA = ~labels.values.isnan()
        targets_CAL = labels.values.where(known_CA, 0.0)[:, :, None]
        errors_CAL = (targets_CAL - quantiles_CAL).where(known_CA[:, :, None], 0.0)
        levels_L = quantiles_CAL.new_tensor(self.levels)
        return (errors_CAL * (levels_L - (errors_CAL < 0).to(levels_L))).mean(-1).flatten()

    def values(self, outputs_CK: Tensor) -> Tensor:
        """The quantiles [C, A, L], rising with the level."""
        outputs_CAL = outputs_CK.reshape(len(outputs_CK), -1, self.settings.num_levels)
        above_CAL = functional.softplus(outputs_CAL[..., 1:]).cumsum(-1)
        rising_CAL = torch.cat([torch.zeros_like(outputs_CAL[..., :1]), above_CAL], -1)
        middle = self.settings.num_levels // 2
        return outputs_CAL[..., :1] + rising_CAL - rising_CAL[..., middle : middle + 1]
