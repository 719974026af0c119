"""DAPO's loss (Yu et al., 2025, arXiv 2503.14476): every token of the step counts the same, good ones may rise further.

The upper clip is wider than the lower, so that unlikely tokens of good answers can grow; there is no reference. The
paper's other halves are parts of their own: dynamic sampling and overlong shaping in `rung.train.dynamic_sampling`.
With the credit `batch_std` it is Lite-PPO (arXiv 2508.08221).
"""

from __future__ import annotations

import pydantic

from rung.base.settings import Field
from rung.train.gates import Clip
from rung.train.token_loss import KlSettings, PolicyObjective, TokenLoss

__all__ = ["Dapo"]


class DapoSettings(KlSettings):
    """The two clip bounds, and a third for bad tokens that became likely."""

    clip_low: float = Field(0.2, gt=0, lt=1, description="a bad token stops falling below a ratio of 1 - this")
    clip_high: float = Field(0.28, gt=0, le=10, description="a good token stops rising above a ratio of 1 + this")
    ratio_cap: float | None = Field(
        None, gt=1, le=1000, description="ratio above which a bad token's step is bounded (dual clip: 3); null: never"
    )

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> DapoSettings:
        if self.ratio_cap is not None and self.ratio_cap <= 1 + self.clip_high:
            raise ValueError(f"ratio_cap must be above 1 + clip_high = {1 + self.clip_high:g}")
        return self


class Dapo(PolicyObjective):
    """Token ratio, asymmetric clip, mean over all tokens of the step."""

    Settings = DapoSettings

    def point(self) -> TokenLoss:
        """See `PolicyObjective`."""
        gate = Clip(self.settings.clip_low, self.settings.clip_high, self.settings.ratio_cap)
        return TokenLoss("token", gate, "token", self.settings)
