"""Conservative DPO: labels that are wrong in a known share (Mitchell, 2023, "A note on DPO with noisy preferences").

-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), h as in `dpo`. It is bounded: the minimum lies at
beta h = log((1 - e) / e), so a pair that is won by that much pulls back instead of further. With e = 0 it is DPO.
"""

from __future__ import annotations

from torch.nn import functional

from rung.base.settings import Field, Settings
from rung.train.pairs import PairLogprobs, PairLoss

__all__ = ["Cdpo"]


class CdpoSettings(Settings):
    """How closely the policy stays to the reference, and how far labels are trusted."""

    beta: float = Field(0.1, gt=0, le=100, description="scale of the implicit reward; larger keeps closer")
    label_smoothing: float = Field(0.1, ge=0, lt=0.5, description="share of pairs whose order is expected to be wrong")


class Cdpo:
    """A pure function of log-probabilities; it holds nothing but its settings."""

    Settings = CdpoSettings
    uses_reference = True

    def __init__(self, settings: CdpoSettings) -> None:
        self.settings = settings

    def pair_losses(self, pairs: PairLogprobs) -> PairLoss:
        """The loss of each pair, in nats."""
        chosen_P, rejected_P = self.settings.beta * pairs.chosen_ratios, self.settings.beta * pairs.rejected_ratios
        margin_P, wrong = chosen_P - rejected_P, self.settings.label_smoothing
        losses_P = -(1 - wrong) * functional.logsigmoid(margin_P) - wrong * functional.logsigmoid(-margin_P)
        return PairLoss(losses_P, chosen_P, rejected_P)
