"""Soft adaptive policy optimisation (SAPO, arXiv 2511.20347): a sigmoid of the ratio in place of a clip.

A token's gradient fades as its ratio leaves 1 and is never cut off; it fades faster where the advantage is negative,
for pushing a token down raises many others that nobody sampled.
"""

from __future__ import annotations

from rung.base.settings import Field
from rung.train.gates import Soft
from rung.train.token_loss import KlSettings, PolicyObjective, TokenLoss

__all__ = ["Sapo"]


class SapoSettings(KlSettings):
    """How fast the gradient fades."""

    tau_positive: float = Field(1.0, gt=0, le=100, description="steepness where the advantage is positive")
    tau_negative: float = Field(1.05, gt=0, le=100, description="steepness elsewhere")


class Sapo(PolicyObjective):
    """Token ratio, soft gate, sequence means."""

    Settings = SapoSettings

    def point(self) -> TokenLoss:
        """See `PolicyObjective`."""
        gate = Soft(self.settings.tau_positive, self.settings.tau_negative)
        return TokenLoss("token", gate, "sequence", self.settings)
