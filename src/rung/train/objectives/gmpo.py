"""Geometric-mean policy optimisation (Zhao et al., 2025, arXiv 2507.20673): a sequence's ratio, clipped token by token.

As `gspo` takes the geometric mean of the tokens' ratios, but holds each token's log-ratio before the mean is taken: one
outlier neither carries its sequence nor silences it, so the range can be wide.
"""

from __future__ import annotations

from rung.base.settings import Field
from rung.train.gates import LogClip
from rung.train.token_loss import KlSettings, PolicyObjective, TokenLoss

__all__ = ["Gmpo"]


class GmpoSettings(KlSettings):
    """The clip range of a token's log-ratio."""

    clip_low: float = Field(0.4, gt=0, le=10, description="a bad token's log-ratio is held at minus this")
    clip_high: float = Field(0.4, gt=0, le=10, description="a good token's log-ratio is held at this")


class Gmpo(PolicyObjective):
    """Sequence ratio of held tokens, sequence means."""

    Settings = GmpoSettings

    def point(self) -> TokenLoss:
        """See `PolicyObjective`."""
        gate = LogClip(self.settings.clip_low, self.settings.clip_high)
        return TokenLoss("sequence", gate, "sequence", self.settings)
