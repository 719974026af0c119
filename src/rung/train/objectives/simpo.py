"""SimPO (Meng, Xia and Chen, 2024, arXiv 2405.14734): length-normalised, without a reference.

-log sigmoid(beta (log pi(y_w) / |y_w| - log pi(y_l) / |y_l|) - gamma): the reward is what greedy decoding maximises, so
a long response wins nothing by its length, and the chosen one must win by `gamma`. Nothing holds the policy to where
it started but the learning rate. With gamma 0 and beta large it is plain length-normalised preference training.
"""

from __future__ import annotations

from torch.nn import functional

from rung.base.settings import Field, Settings
from rung.train.pairs import PairLogprobs, PairLoss

__all__ = ["Simpo"]


class SimpoSettings(Settings):
    """The scale of the reward and the margin it must reach."""

    beta: float = Field(2.0, gt=0, le=100, description="scale of the mean log-probability per token")
    gamma: float = Field(0.5, ge=0, le=100, description="margin of rewards that the chosen response must win by")


class Simpo:
    """A pure function of log-probabilities; it holds nothing but its settings."""

    Settings = SimpoSettings
    uses_reference = False

    def __init__(self, settings: SimpoSettings) -> None:
        self.settings = settings

    def pair_losses(self, pairs: PairLogprobs) -> PairLoss:
        """The loss of each pair, in nats; the reference is not looked at."""
        chosen_P = self.settings.beta * pairs.chosen / pairs.chosen_counts
        rejected_P = self.settings.beta * pairs.rejected / pairs.rejected_counts
        return PairLoss(-functional.logsigmoid(chosen_P - rejected_P - self.settings.gamma), chosen_P, rejected_P)
