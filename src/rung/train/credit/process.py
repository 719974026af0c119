"""Credit by steps (DeepSeekMath, arXiv 2402.03300, process supervision): a token gets what comes at or after it.

Rewards of single steps are normalised over all steps of the group (as `group_mean_std` does with whole answers); the
advantage of a step is the sum of its own and all later ones of its sequence. Tokens belong to the step that they are
part of; those after the last step get nothing. A step whose scorer abstained adds nothing to any sum, and the tokens of
its sequence train as long as one of its steps was scored. A sequence with many good steps is worth more than one with
few: reward steps around 0 where that is unwanted.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from rung.base.errors import DataError
from rung.base.settings import Field
from rung.train.advantages import Advantages, CreditSettings, GroupedRewards, center, credit_by_group

__all__ = ["Process"]


class ProcessSettings(CreditSettings):
    """What is added to the spread."""

    epsilon: float = Field(1e-6, gt=0, le=1, description="added to the spread before dividing")


class Process:
    """A pure function of rewards; it holds nothing but its settings."""

    Settings = ProcessSettings
    # The last two of each are the steps' sequences and numbers.
    EXAMPLES: tuple[tuple[Any, ...], ...] = (
        ({}, [2, -1, 0, -1], [7] * 4, [0.707106, -0.707106, -0.707106, -0.707106], [0, 0, 1, 1], [0, 1, 0, 1]),
        ({}, [2, -1, -1, 0], [7] * 4, [1.414213, 0.707106, -0.707106, 0], [0, 0, 1, 1], [5, 2, 0, 1]),
        ({}, [1, None, -1, 4, 4], [7, 7, 7, 2, 2], [0.0, -0.707106, -0.707106, 0, 0], [0, 0, 0, 1, 2], [0, 1, 2, 0, 0]),
    )

    def __init__(self, settings: ProcessSettings) -> None:
        self.settings = settings

    def advantages(self, rewards: GroupedRewards) -> Advantages:
        """See `rung.train.advantages.Credit`; the rewards are those of steps.

        Raises:
            DataError: the sequences or step numbers are missing, or two steps of a sequence have the same number.
        """
        if rewards.sequences is None or rewards.steps is None:
            raise DataError("credit by steps needs the sequence and the number of each step", place="rewards")
        found = credit_by_group(rewards, self._within, self.settings.equal_groups)
        values_K, counts_K, kl_K = found.values.clone(), found.counts.clone(), found.kl.clone()
        for sequence in torch.unique(rewards.sequences).tolist():
            own = _in_order(rewards.sequences, rewards.steps, sequence)
            values_K[own] = found.values[own].flip(0).cumsum(0).flip(0)
            counts_K[own], kl_K[own] = found.counts[own].any(), found.kl[own].any()
        return dataclasses.replace(found, values=values_K, counts=counts_K, kl=kl_K)

    def _within(self, rewards_G: Tensor) -> Tensor:
        return center(rewards_G) / (rewards_G.std(correction=1) + self.settings.epsilon)


def _in_order(sequences_K: Tensor, steps_K: Tensor, sequence: int) -> Tensor:
    """The numbers of a sequence's rewards, first step first."""
    own = torch.nonzero(sequences_K == sequence).squeeze(1)
    numbers, order = torch.sort(steps_K[own])
    if bool((numbers[1:] == numbers[:-1]).any()):
        raise DataError("two steps have the same number", place=f"sequence {sequence}")
    return own[order]
