"""Two judgements of one answer: is each step sound, and does the whole hold together (arXiv 2503.13551).

Legend: C answer (a piece of one, or all of it), A attribute (soundness, coherence), K output (the two), L value (one).

Cross-entropy of two yes-or-no questions, each on its own samples. Soundness is asked of a step after those before it
(fine), and of two steps together, whose label is the later one's (merged), so that a slip that is put right is no slip.
Coherence is asked of the whole answer. The two are combined in `combined`; no sample teaches that.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from rung.base.settings import Field, Settings
from rung.train.reward_rows import RewardLabels

__all__ = ["Hierarchical"]


class HierarchicalSettings(Settings):
    """How the two parts are trained and combined."""

    soundness_weight: float = Field(1.0, ge=0, le=1000, description="weight of a step's label in training")
    coherence_weight: float = Field(1.0, ge=0, le=1000, description="weight of a whole answer's label in training")
    step_weight: float = Field(0.3, gt=0, lt=1, description="share of the whole's worth that unsound steps can cost")


class Hierarchical:
    """A pure function of two logits; it holds nothing but its settings."""

    Settings = HierarchicalSettings
    reads: Literal["pairs", "labels"] = "labels"
    levels: tuple[float, ...] = ()
    attributes = ("soundness", "coherence")

    def __init__(self, settings: HierarchicalSettings) -> None:
        self.settings = settings

    def num_outputs(self, num_attributes: int) -> int:
        """A logit for each part."""
        return len(self.attributes)

    def label_weights(self, labels: RewardLabels) -> Tensor:
        """The part's weight where there is a label, answer after answer."""
        weights = (self.settings.soundness_weight, self.settings.coherence_weight)
        return (~labels.values.isnan() * labels.values.new_tensor(weights)).flatten()

    def answer_losses(self, outputs_CK: Tensor, labels: RewardLabels) -> Tensor:
        """The cross-entropy of each label, in nats; labels may lie between 0 and 1."""
        targets_CA = labels.values.where(~labels.values.isnan(), 0.5)
        return functional.binary_cross_entropy_with_logits(outputs_CK, targets_CA, reduction="none").flatten()

    def values(self, outputs_CK: Tensor) -> Tensor:
        """The two logits, [C, 2, 1]."""
        return outputs_CK[:, :, None]

    def combined(self, soundness: float, coherence: float) -> float:
        """C (1 - w (1 - S)): steps earn nothing by themselves, and unsound ones cost at most the share w of the whole.

        Sound steps to a wrong end therefore rank below clumsy ones to a right end as soon as the wrong end's coherence
        is under 1 - w of the right one's.
        """
        return coherence * (1 - self.settings.step_weight * (1 - soundness))
