"""Lite-PPO's advantage (Liu et al., 2025, arXiv 2508.08221): (reward - group mean) / (spread of the whole step).

One spread for all prompts: as in `group_mean` no prompt is weighed up for being nearly always or never solved, and yet
the size of an update does not follow the scale of the reward. Hand it the rewards of every rank, not of one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rung.base.settings import Field
from rung.train.advantages import Advantages, CreditSettings, GroupedRewards, center, credit_by_group

__all__ = ["BatchStd"]


class BatchStdSettings(CreditSettings):
    """What is added to the spread."""

    epsilon: float = Field(1e-6, gt=0, le=1, description="added to the spread before dividing")


class BatchStd:
    """A pure function of rewards; it holds nothing but its settings."""

    Settings = BatchStdSettings
    EXAMPLES: tuple[tuple[Any, ...], ...] = (
        ({}, [1, 0, 0, 0, 0, 0, 0, 0], [3] * 8, [2.474867] + [-0.353552] * 7),
        ({}, [1, 2, 5, 0], [0, 1, 1, 0], [0.231455, -0.694365, 0.694365, -0.231455]),
        ({}, [3, None, 1, 7, 7], [0, 0, 0, 1, 1], [0.333333, 0, -0.333333, 0, 0]),
    )

    def __init__(self, settings: BatchStdSettings) -> None:
        self.settings = settings

    def advantages(self, rewards: GroupedRewards) -> Advantages:
        """See `rung.train.advantages.Credit`."""
        found = credit_by_group(rewards, center, self.settings.equal_groups)
        given = rewards.rewards[~rewards.rewards.isnan()].double()
        if len(given) < 2:
            return found
        return dataclasses.replace(
            found, values=found.values / (given.std(correction=1).float() + self.settings.epsilon)
        )
