"""GRPO done right (Liu et al., 2025, arXiv 2503.20783): sums over tokens divided by a constant, no reference.

Dividing by each sequence's own length makes long wrong answers cheap. Here every token weighs 1 / `max_tokens`, a
constant of the run and never the longest sequence of a batch. It goes with the credit `group_mean`, whose advantages
keep the scale of the reward: with rewards far from [0, 1] the size of the update follows them.
"""

from __future__ import annotations

from rung.base.settings import Field
from rung.train.gates import Clip
from rung.train.token_loss import KlSettings, PolicyObjective, TokenLoss

__all__ = ["DrGrpo"]


class DrGrpoSettings(KlSettings):
    """The clip range and the constant length."""

    clip_low: float = Field(0.2, gt=0, lt=1, description="a bad token stops falling below a ratio of 1 - this")
    clip_high: float = Field(0.2, gt=0, le=10, description="a good token stops rising above a ratio of 1 + this")
    max_tokens: int = Field(1024, ge=1, description="most tokens a rollout may generate; every sum is divided by it")


class DrGrpo(PolicyObjective):
    """Token ratio, clip, constant length."""

    Settings = DrGrpoSettings

    def point(self) -> TokenLoss:
        """See `PolicyObjective`."""
        gate = Clip(self.settings.clip_low, self.settings.clip_high)
        return TokenLoss("token", gate, "constant", self.settings, max_tokens=self.settings.max_tokens)
