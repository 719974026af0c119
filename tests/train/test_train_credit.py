"""Credit: anchors, refusals, and the way from rewards to tokens. Spec item 314."""

from __future__ import annotations

import importlib
import importlib.util
import math

import pytest
import torch

from rung.base.errors import DataError
from rung.base.lookup import part
from rung.train.advantages import Advantages, GroupedRewards


def credited(name: str, rewards: GroupedRewards) -> Advantages:
    kind, own = part("train.credit", name)
    return kind(own).advantages(rewards)


def test_the_anchor_of_eight_with_one_success() -> None:
    found = credited("group_mean_std", GroupedRewards.of([0, 0, 0, 1, 0, 0, 0, 0], [5] * 8)).values
    assert found.tolist() == pytest.approx([-0.3536] * 3 + [2.4749] + [-0.3536] * 4, abs=1e-4)


def test_leave_one_out_is_the_baseline_without_the_sample_itself() -> None:
    rewards = [0.3, -1.2, 2.5, 0.0, 0.9]
    expected = [r - (sum(rewards) - r) / 4 for r in rewards]
    assert credited("leave_one_out", GroupedRewards.of(rewards, [0] * 5)).values.tolist() == pytest.approx(expected)


def test_rounding_of_equal_rewards_is_no_advantage() -> None:
    """0.1 has no exact mean in float32: divided by a spread of rounding it would be a full-sized advantage."""
    rewards = torch.full((7,), 0.1, dtype=torch.float32)
    found = credited("group_mean_std", GroupedRewards(rewards, torch.zeros(7, dtype=torch.int64)))
    assert found.values.tolist() == [0.0] * 7
    assert found.num_equal_groups == 1


def test_credit_by_steps_reaches_the_tokens_of_each_step_and_those_before() -> None:
    rewards = GroupedRewards(
        torch.tensor([2.0, -1, 0, -1]), torch.zeros(4, dtype=torch.int64),
        torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]),
    )  # fmt: skip
    found = credited("process", rewards)
    values, counts, kl = found.over_tokens(torch.tensor([0, 0, 1, 1, -1, 2, 3]))
    half = 1 / math.sqrt(2)
    assert values.tolist() == pytest.approx([half, half, -half, -half, 0, -half, -half], abs=1e-5)
    assert counts.tolist() == kl.tolist() == [True] * 4 + [False] + [True] * 2


def test_credit_by_steps_refuses_what_it_cannot_order() -> None:
    with pytest.raises(DataError, match="number of each step"):
        credited("process", GroupedRewards.of([1, 0], [0, 0]))
    twice = GroupedRewards(torch.tensor([1.0, 0.0]), *(torch.zeros(2, dtype=torch.int64) for _ in range(3)))
    with pytest.raises(DataError, match="same number"):
        credited("process", twice)


def test_rewards_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match="infinite"):
        GroupedRewards.of([1.0, math.inf], [0, 0])
    with pytest.raises(DataError, match="groups"):
        GroupedRewards.of([1.0, 2.0], [0])


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")
@pytest.mark.parametrize(("name", "over"), [("group_mean_std", 1), ("batch_std", None)])
def test_spreads_are_those_that_trl_takes(name: str, over: int | None) -> None:
    nanstd = importlib.import_module("trl.trainer.utils").nanstd
    torch.manual_seed(3)
    rewards_PG = torch.randn(4, 6)
    rewards_PG[1, 2] = rewards_PG[3, 0] = math.nan
    spread = nanstd(rewards_PG, dim=1)[:, None] if over else nanstd(rewards_PG)
    expected = torch.nan_to_num((rewards_PG - rewards_PG.nanmean(1, keepdim=True)) / (spread + 1e-6), nan=0.0)
    groups = torch.arange(4).repeat_interleave(6)
    found = credited(name, GroupedRewards(rewards_PG.reshape(-1), groups)).values
    torch.testing.assert_close(found.reshape(4, 6), expected, atol=1e-5, rtol=1e-5)
