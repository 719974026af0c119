"""Preferences as differences of one score (Bradley and Terry, 1952), and two ways to use how clear a preference is.

Legend: C answer, K output (one), P pair, A attribute (one), L value (one).

With d the score of the better answer less that of the other and m the strength of the preference: `plain`
-log sigmoid(d); `margin` -log sigmoid(d - m), which asks for a difference; `scaled` -m log sigmoid(d), which counts a
clear pair more (HelpSteer2-Preference, arXiv 2410.01257). Only differences are trained: the score has no zero.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from rung.base.settings import Field, Settings
from rung.train.reward_rows import RewardLabels

__all__ = ["BradleyTerry"]


class BradleyTerrySettings(Settings):
    """What the strength of a preference does."""

    variant: Literal["plain", "margin", "scaled"] = Field("plain", description="how strength enters: not, d - m, m log")


class BradleyTerry:
    """A pure function of scores; it holds nothing but its settings."""

    Settings = BradleyTerrySettings
    reads: Literal["pairs", "labels"] = "pairs"
    levels: tuple[float, ...] = ()

    def __init__(self, settings: BradleyTerrySettings) -> None:
        self.settings = settings

    def num_outputs(self, num_attributes: int) -> int:
        """One score."""
        return 1

    def label_weights(self, labels: RewardLabels) -> Tensor:
        """Each pair counts one."""
        return labels.strengths.new_ones(len(labels.chosen))

    def answer_losses(self, outputs_CK: Tensor, labels: RewardLabels) -> Tensor:
        """The loss of each pair, in nats."""
        differences_P = outputs_CK[labels.chosen, 0] - outputs_CK[labels.rejected, 0]
        if self.settings.variant == "margin":
            differences_P = differences_P - labels.strengths
        losses_P = -functional.logsigmoid(differences_P)
        return losses_P * labels.strengths if self.settings.variant == "scaled" else losses_P

    def values(self, outputs_CK: Tensor) -> Tensor:
        """The scores themselves, [C, 1, 1]."""
        return outputs_CK[:, :, None]
