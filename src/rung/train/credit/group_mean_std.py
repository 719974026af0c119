"""GRPO's advantage (DeepSeekMath, arXiv 2402.03300): (reward - group mean) / (group spread + epsilon).

The spread is the sample's (divided by n - 1), as verl and TRL take it. Dividing by it weighs prompts that are nearly
always or nearly never solved up; `group_mean` does not.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rung.base.settings import Field
from rung.train.advantages import Advantages, CreditSettings, GroupedRewards, center, credit_by_group

__all__ = ["GroupMeanStd"]


class GroupMeanStdSettings(CreditSettings):
    """What is added to the spread."""

    epsilon: float = Field(1e-6, gt=0, le=1, description="added to the spread before dividing")


class GroupMeanStd:
    """A pure function of rewards; it holds nothing but its settings."""

    Settings = GroupMeanStdSettings
    EXAMPLES: tuple[tuple[Any, ...], ...] = (
        ({}, [1, 0, 0, 0, 0, 0, 0, 0], [3] * 8, [2.474867] + [-0.353552] * 7),
        ({}, [1, 2, 5, 0], [0, 1, 1, 0], [0.707106, -0.707106, 0.707106, -0.707106]),
        ({"epsilon": 1.0}, [3, None, 1], [0, 0, 0], [0.414214, 0, -0.414214]),
    )

    def __init__(self, settings: GroupMeanStdSettings) -> None:
        self.settings = settings

    def advantages(self, rewards: GroupedRewards) -> Advantages:
        """See `rung.train.advantages.Credit`."""
        return credit_by_group(rewards, self._within, self.settings.equal_groups)

    def _within(self, rewards_G: Tensor) -> Tensor:
        return center(rewards_G) / (rewards_G.std(correction=1) + self.settings.epsilon)
