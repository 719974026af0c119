"""One output per attribute, fitted to its labels by least squares (SteerLM, arXiv 2310.05344; HelpSteer2, 2406.08673).

Legend: C answer, A attribute, K output (one per attribute), L value (one).

sum w (prediction - label)^2 / sum w over the labels that are there; a missing one is left out and never taken for 0. An
attribute of weight 0 leaves its output as it was. Labels are brought to one scale by the caller: squares of points on
different scales do not add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from rung.base.settings import Field, Settings
from rung.train.reward_rows import RewardLabels

__all__ = ["AttributeRegression"]


class AttributeRegressionSettings(Settings):
    """How much each attribute counts."""

    weights: Mapping[str, float] = Field(default={}, description="weight by attribute; one that is not named counts 1")


class AttributeRegression:
    """A pure function of predictions; it holds nothing but its settings."""

    Settings = AttributeRegressionSettings
    reads: Literal["pairs", "labels"] = "labels"
    levels: tuple[float, ...] = ()

    def __init__(self, settings: AttributeRegressionSettings) -> None:
        self.settings = settings

    def num_outputs(self, num_attributes: int) -> int:
        """One per attribute."""
        return num_attributes

    def label_weights(self, labels: RewardLabels) -> Tensor:
        """The attribute's weight where there is a label, answer after answer."""
        weights_A = labels.values.new_tensor([self.settings.weights.get(name, 1.0) for name in labels.attributes])
        return (~labels.values.isnan() * weights_A).flatten()

    def answer_losses(self, outputs_CK: Tensor, labels: RewardLabels) -> Tensor:
        """The squared error of each label; 0 for a missing one."""
        # the label is replaced before any arithmetic: NaN times 0 is NaN, in the gradient too
        targets_CA = labels.values.where(~labels.values.isnan(), outputs_CK.detach())
        return ((outputs_CK - targets_CA) ** 2).flatten()

    def values(self, outputs_CK: Tensor) -> Tensor:
        """The predictions, [C, A, 1]."""
        return outputs_CK[:, :, None]
