"""Dr. GRPO's advantage (Liu et al., 2025, arXiv 2503.20783): reward - group mean, in the reward's own unit.

Every prompt keeps the weight that its rewards give it. The size of an update follows the scale of the reward, so keep
rewards near [0, 1].
"""

from __future__ import annotations

from typing import Any

from rung.train.advantages import Advantages, CreditSettings, GroupedRewards, center, credit_by_group

__all__ = ["GroupMean"]


class GroupMeanSettings(CreditSettings):
    """Nothing of its own."""


class GroupMean:
    """A pure function of rewards; it holds nothing but its settings."""

    Settings = GroupMeanSettings
    EXAMPLES: tuple[tuple[Any, ...], ...] = (
        ({}, [1, 0, 0, 0, 0, 0, 0, 0], [3] * 8, [0.875] + [-0.125] * 7),
        ({}, [1, 2, 5, 0], [0, 1, 1, 0], [0.5, -1.5, 1.5, -0.5]),
        ({}, [3, None, 1], [0, 0, 0], [1, 0, -1]),
    )

    def __init__(self, settings: GroupMeanSettings) -> None:
        self.settings = settings

    def advantages(self, rewards: GroupedRewards) -> Advantages:
        """See `rung.train.advantages.Credit`."""
        return credit_by_group(rewards, center, self.settings.equal_groups)
