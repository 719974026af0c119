"""Direct preference optimisation (Rafailov et al., 2023, arXiv 2305.18290), the sigmoid loss.

-log sigmoid(beta h), h being how much further the policy moved from the reference on the chosen response than on the
rejected one: the difference of their summed log-ratios. At the reference h is 0 and the loss log 2. It trusts every
label fully and may lower both responses together: watch the chosen reward, not the margin alone.
"""

from __future__ import annotations

from torch.nn import functional

from rung.base.settings import Field, Settings
from rung.train.pairs import PairLogprobs, PairLoss

__all__ = ["Dpo"]


class DpoSettings(Settings):
    """How closely the policy stays to the reference."""

    beta: float = Field(0.1, gt=0, le=100, description="scale of the implicit reward; larger keeps closer")


class Dpo:
    """A pure function of log-probabilities; it holds nothing but its settings."""

    Settings = DpoSettings
    uses_reference = True

    def __init__(self, settings: DpoSettings) -> None:
        self.settings = settings

    def pair_losses(self, pairs: PairLogprobs) -> PairLoss:
        """The loss of each pair, in nats."""
        chosen_P, rejected_P = self.settings.beta * pairs.chosen_ratios, self.settings.beta * pairs.rejected_ratios
        return PairLoss(-functional.logsigmoid(chosen_P - rejected_P), chosen_P, rejected_P)
