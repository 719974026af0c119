"""Identity preference optimisation (Azar et al., 2023, arXiv 2310.12036): regress the margin instead of pushing it.

(h - 1 / (2 beta))^2: a pair stops pulling once its margin is 1 / (2 beta), which keeps certain labels from driving the
policy arbitrarily far. Log-ratios are taken per token by default, so that long responses do not set the scale (TRL
does so, after asking the authors); the paper's formula sums them.
"""

from __future__ import annotations

from rung.base.settings import Field, Settings
from rung.train.pairs import PairLogprobs, PairLoss

__all__ = ["Ipo"]


class IpoSettings(Settings):
    """The margin that is aimed at, and its unit."""

    beta: float = Field(0.1, gt=0, le=100, description="the margin aimed at is 1 / (2 beta)")
    per_token: bool = Field(True, description="log-ratios per token; false: summed over the response")


class Ipo:
    """A pure function of log-probabilities; it holds nothing but its settings."""

    Settings = IpoSettings
    uses_reference = True

    def __init__(self, settings: IpoSettings) -> None:
        self.settings = settings

    def pair_losses(self, pairs: PairLogprobs) -> PairLoss:
        """The squared distance of each pair's margin from the one aimed at."""
        chosen_P, rejected_P = pairs.chosen_ratios, pairs.rejected_ratios
        if self.settings.per_token:
            chosen_P, rejected_P = chosen_P / pairs.chosen_counts, rejected_P / pairs.rejected_counts
        losses_P = (chosen_P - rejected_P - 1 / (2 * self.settings.beta)).square()
        return PairLoss(losses_P, chosen_P, rejected_P)
