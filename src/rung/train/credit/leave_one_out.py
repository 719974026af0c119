"""Leave-one-out (RLOO; Ahmadian et al., 2024, arXiv 2402.14740): reward - mean of the *other* rewards of the group.

A sample's own reward is not in its baseline, so the gradient is unbiased. It is `group_mean` times n / (n - 1), n being
the number of rewards of the group that did not abstain.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rung.train.advantages import Advantages, CreditSettings, GroupedRewards, credit_by_group

__all__ = ["LeaveOneOut"]


class LeaveOneOutSettings(CreditSettings):
    """Nothing of its own."""


class LeaveOneOut:
    """A pure function of rewards; it holds nothing but its settings."""

    Settings = LeaveOneOutSettings
    EXAMPLES: tuple[tuple[Any, ...], ...] = (
        ({}, [1, 0, 0, 0, 0, 0, 0, 0], [3] * 8, [1.0] + [-0.142857] * 7),
        ({}, [1, 2, 5, 0], [0, 1, 1, 0], [1, -3, 3, -1]),
        ({}, [3, None, 1, 2], [0, 0, 0, 0], [1.5, 0, -1.5, 0]),
    )

    def __init__(self, settings: LeaveOneOutSettings) -> None:
        self.settings = settings

    def advantages(self, rewards: GroupedRewards) -> Advantages:
        """See `rung.train.advantages.Credit`."""
        return credit_by_group(rewards, _within, self.settings.equal_groups)


def _within(rewards_G: Tensor) -> Tensor:
    others_G = (rewards_G.sum() - rewards_G) / (len(rewards_G) - 1)
    return rewards_G - others_G
