"""Group relative policy optimisation (DeepSeekMath, arXiv 2402.03300): PPO's clipped loss without a value network.

Ratios per token, each sequence counts the same however long it is, KL to a frozen reference inside the loss. It goes
with the credit `group_mean_std`. A long wrong answer is punished less per token than a short one, which lets wrong
answers grow: `dr_grpo` and `dapo` mend that.
"""

from __future__ import annotations

from rung.base.settings import Field
from rung.train.gates import Clip
from rung.train.token_loss import KlSettings, PolicyObjective, TokenLoss

__all__ = ["Grpo"]


class GrpoSettings(KlSettings):
    """The clip range, and how the policy is held to the reference."""

    kl_coefficient: float = Field(0.04, ge=0, le=100, description="weight of the KL to the reference; 0: no reference")
    clip_low: float = Field(0.2, gt=0, lt=1, description="a bad token stops falling below a ratio of 1 - this")
    clip_high: float = Field(0.2, gt=0, le=10, description="a good token stops rising above a ratio of 1 + this")


class Grpo(PolicyObjective):
    """Token ratio, clip, sequence means."""

    Settings = GrpoSettings

    def point(self) -> TokenLoss:
        """See `PolicyObjective`."""
        gate = Clip(self.settings.clip_low, self.settings.clip_high)
        return TokenLoss("token", gate, "sequence", self.settings)
