"""Cross-entropy on the target tokens: what supervised fine-tuning minimises.

Options: label smoothing (Szegedy et al., 2016), and weighting by token (each target counts the same) or by example
(each example counts the same, however long its response is). It reads hidden states, not logits; prompt positions
never reach the output projection. It does not mask: callers hand it the hidden states of targets only.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from rung.base.settings import Field, Settings
from rung.train.output_loss import OutputLoss, output_loss

__all__ = ["CrossEntropy"]


class CrossEntropySettings(Settings):
    """What is counted, and how hard the targets are."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over the vocabulary")
    weighting: Literal["token", "example"] = Field("token", description="what counts the same: tokens or examples")


class CrossEntropy:
    """A pure function of hidden states, output weight, targets and weights; it holds nothing but its settings."""

    Settings = CrossEntropySettings

    def __init__(self, settings: CrossEntropySettings) -> None:
        self.settings = settings

    def weights(self, target_counts_N: Tensor) -> Tensor:
        """How much each target counts; `target_counts_N` is the number of targets in its example."""
        counts_N = target_counts_N.float()
        return counts_N.new_ones(counts_N.shape) if self.settings.weighting == "token" else 1 / counts_N

    def __call__(
        self, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, *, softcap: float = 0.0
    ) -> OutputLoss:
        """The weighted sum of the losses, in nats; dividing by the global sum of weights is the caller's part."""
        smoothing = self.settings.label_smoothing
        return output_loss(hidden_ND, weight_VD, targets_N, weights_N, softcap=softcap, smoothing=smoothing)
