"""Clipped importance weights (CISPO; MiniMax-M1, arXiv 2506.13585; ScaleRL, arXiv 2510.13786): no token is silenced.

The ratio is a constant weight, bounded from above, on the log-probability: rare tokens that turn a chain of thought
keep their gradient where a clip would drop them. The value of the loss means nothing, only its gradient does.
"""

from __future__ import annotations

from rung.base.settings import Field
from rung.train.gates import WeightCap
from rung.train.token_loss import KlSettings, PolicyObjective, TokenLoss

__all__ = ["Cispo"]


class CispoSettings(KlSettings):
    """The bound of the weight."""

    weight_cap: float = Field(5.0, ge=1, le=1000, description="largest weight that a token may have")


class Cispo(PolicyObjective):
    """Token ratio as a bounded weight, mean over all tokens of the step."""

    Settings = CispoSettings

    def point(self) -> TokenLoss:
        """See `PolicyObjective`."""
        return TokenLoss("token", WeightCap(self.settings.weight_cap), "token", self.settings)
