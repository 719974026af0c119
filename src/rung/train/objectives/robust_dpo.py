"""Robust DPO (Chowdhury, Kini and Natarajan, 2024, arXiv 2403.00409): unbiased when labels are flipped at a known rate.

((1 - e)(-log sigmoid(beta h)) - e (-log sigmoid(-beta h))) / (1 - 2 e), h as in `dpo`. Its mean over flipped labels is
the DPO loss of the true ones. Unlike `cdpo` it is not bounded below (the slope goes to -e / (1 - 2 e) as h grows), so
stop early.
"""

from __future__ import annotations

from torch.nn import functional

from rung.base.settings import Field, Settings
from rung.train.pairs import PairLogprobs, PairLoss

__all__ = ["RobustDpo"]


class RobustDpoSettings(Settings):
    """How closely the policy stays to the reference, and how often labels are flipped."""

    beta: float = Field(0.1, gt=0, le=100, description="scale of the implicit reward; larger keeps closer")
    flip_rate: float = Field(0.1, ge=0, lt=0.5, description="share of pairs whose order is wrong")


class RobustDpo:
    """A pure function of log-probabilities; it holds nothing but its settings."""

    Settings = RobustDpoSettings
    uses_reference = True

    def __init__(self, settings: RobustDpoSettings) -> None:
        self.settings = settings

    def pair_losses(self, pairs: PairLogprobs) -> PairLoss:
        """The loss of each pair; it can be negative."""
        chosen_P, rejected_P = self.settings.beta * pairs.chosen_ratios, self.settings.beta * pairs.rejected_ratios
        margin_P, flipped = chosen_P - rejected_P, self.settings.flip_rate
        as_given_P, other_way_P = -functional.logsigmoid(margin_P), -functional.logsigmoid(-margin_P)
        losses_P = ((1 - flipped) * as_given_P - flipped * other_way_P) / (1 - 2 * flipped)
        return PairLoss(losses_P, chosen_P, rejected_P)
