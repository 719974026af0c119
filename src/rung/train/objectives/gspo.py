"""Group sequence policy optimisation (Zheng et al., 2025, arXiv 2507.18071): the ratio and the clip of whole sequences.

The ratio is the geometric mean of the tokens' ratios, so it stays about a thousand times closer to 1 than theirs and
the clip range is that much narrower: 0.2 here would never clip. It differs from `grpo` only once the policy has moved
since the rollout; with one update per rollout the two have the same gradient.
"""

from __future__ import annotations

from rung.base.settings import Field
from rung.train.gates import Clip
from rung.train.token_loss import KlSettings, PolicyObjective, TokenLoss

__all__ = ["Gspo"]


class GspoSettings(KlSettings):
    """The clip range of a sequence's ratio."""

    clip_low: float = Field(3e-4, gt=0, le=0.1, description="a bad sequence stops falling below a ratio of 1 - this")
    clip_high: float = Field(4e-4, gt=0, le=0.1, description="a good sequence stops rising above a ratio of 1 + this")


class Gspo(PolicyObjective):
    """Sequence ratio, clip, sequence means."""

    Settings = GspoSettings

    def point(self) -> TokenLoss:
        """See `PolicyObjective`."""
        gate = Clip(self.settings.clip_low, self.settings.clip_high)
        return TokenLoss("sequence", gate, "sequence", self.settings)
