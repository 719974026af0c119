"""Every way of giving credit in the folder keeps the same promises; a new file arrives tested."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from rung.base.lookup import known, lookup, part
from rung.base.settings import Settings
from rung.train.advantages import Advantages, GroupedRewards

FOLDER = "train.credit"
NAMES = known(FOLDER)
CASES = [(name, index) for name in NAMES for index in range(len(lookup(FOLDER, name).EXAMPLES))]


def grouped(rewards: list[float | None], groups: list[int], *steps: list[int]) -> GroupedRewards:
    plain = GroupedRewards.of(rewards, groups)
    # Without steps of their own rewards are those of sequences with one step each, which every credit takes.
    columns = steps or (range(len(rewards)), [0] * len(rewards))
    return GroupedRewards(plain.rewards, plain.groups, *(torch.tensor(list(column)) for column in columns))


def credited(name: str, rewards: GroupedRewards, **settings: Any) -> Advantages:
    kind, own = part(FOLDER, {"kind": name, **settings})
    return kind(own).advantages(rewards)


@pytest.mark.parametrize(("name", "index"), CASES)
def test_examples_come_out_as_written(name: str, index: int) -> None:
    settings, rewards, groups, expected, *steps = lookup(FOLDER, name).EXAMPLES[index]
    found = credited(name, grouped(rewards, groups, *steps), **settings)
    assert found.values.tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_shape_of_a_credit(name: str) -> None:
    kind = lookup(FOLDER, name)
    assert issubclass(kind.Settings, Settings)
    assert all(field.description for field in kind.Settings.model_fields.values())
    assert len(kind.EXAMPLES) >= 2
    assert inspect.getmodule(kind).__doc__


@pytest.mark.parametrize("name", NAMES)
def test_order_does_not_matter_and_groups_do_not_mix(name: str) -> None:
    """The same rewards shuffled, and interleaved with other prompts', get the same advantages."""
    rewards, groups = [1.0, 0.0, 0.5, 3.0, -2.0, 7.0], [4, 4, 4, 9, 9, 9]
    plain = credited(name, grouped(rewards, groups)).values
    order = [5, 0, 3, 2, 4, 1]
    shuffled = credited(name, grouped([rewards[i] for i in order], [groups[i] for i in order])).values
    torch.testing.assert_close(shuffled, plain[torch.tensor(order)])
    signs = credited(name, grouped([1.0, 0.0, 101.0, 100.0], [0, 0, 1, 1])).values
    assert (signs > 0).tolist() == [True, False, True, False], "a rich prompt does not make a poor one's answers bad"


@pytest.mark.parametrize("name", NAMES)
def test_equal_and_single_rewards_give_exactly_zero_and_are_counted(name: str) -> None:
    found = credited(name, grouped([0.1, 0.1, 0.1, 5.0, 1.0, 0.0], [0, 0, 0, 1, 2, 2]))
    assert found.values[:4].tolist() == [0.0] * 4
    assert found.values[4] > 0 > found.values[5]
    assert (found.num_groups, found.num_equal_groups, found.num_single_groups) == (3, 1, 1)
    assert found.mixed_share == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", NAMES)
def test_who_abstained_moves_nobody_and_trains_nothing(name: str) -> None:
    with_one = credited(name, grouped([1.0, None, 0.0, 2.0, None], [0, 0, 0, 0, 1]))
    without = credited(name, grouped([1.0, 0.0, 2.0], [0, 0, 0]))
    torch.testing.assert_close(with_one.values[[0, 2, 3]], without.values)
    assert with_one.values[[1, 4]].tolist() == [0.0, 0.0]
    assert with_one.counts.tolist() == [True, False, True, True, False]
    assert (with_one.num_abstained, with_one.num_single_groups) == (2, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("choice", "counts", "kl"),
    [
        ("keep", [True] * 4, [True] * 4),
        ("no_kl", [True] * 4, [False, False, True, True]),
        ("drop", [False, False, True, True], [False, False, True, True]),
    ],
)
def test_what_becomes_of_equal_groups_is_a_choice(name: str, choice: str, counts: list[bool], kl: list[bool]) -> None:
    found = credited(name, grouped([1.0, 1.0, 1.0, 0.0], [0, 0, 1, 1]), equal_groups=choice)
    assert found.counts.tolist() == counts
    assert found.kl.tolist() == kl


@pytest.mark.parametrize("name", NAMES)
def test_advantages_of_a_group_sum_to_zero(name: str) -> None:
    torch.manual_seed(0)
    rewards = torch.randn(12, dtype=torch.float64).tolist()
    found = credited(name, grouped(rewards, [0, 1, 2] * 4)).values
    assert found.reshape(4, 3).sum(0).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
