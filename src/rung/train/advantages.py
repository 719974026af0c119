"""What every way of giving credit shares: rewards by group, what to leave out, and how advantages reach tokens.

Legend: K reward (one per sequence, or one per step of a sequence), G group, N token.

A group is all samples of one prompt. It is known by index, never by position: a shuffling loader cannot mix groups.
A reward that is not a number abstained: it is left out of its group's mean and spread and trains nothing. A group
whose rewards are all equal, or that has one reward, teaches nothing: its advantages are exactly 0 and it is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from rung.base.errors import DataError
from rung.base.settings import Field, Settings

__all__ = ["Advantages", "Credit", "CreditSettings", "GroupedRewards", "center", "credit_by_group", "is_equal"]


class CreditSettings(Settings):
    """What becomes of groups that teach nothing."""

    equal_groups: Literal["keep", "no_kl", "drop"] = Field(
        "keep",
        description="groups of equal rewards: keep (they count in the divisor, and KL still acts), no_kl (they only "
        "count), drop (their tokens leave the loss)",
    )


@dataclass(frozen=True, slots=True)
class GroupedRewards:
    """Rewards of a whole optimizer step [K], NaN where a scorer abstained, and the group of each.

    Rewards of steps also have the sequence that the step belongs to and its number in it, counted upwards.
    """

    rewards: Tensor
    groups: Tensor
    sequences: Tensor | None = None
    steps: Tensor | None = None

    def __post_init__(self) -> None:
        index = {"groups": self.groups, "sequences": self.sequences, "steps": self.steps}
        for name, tensor in index.items():
            if tensor is not None and tensor.shape != self.rewards.shape:
                shapes = f"{tuple(tensor.shape)}, rewards {tuple(self.rewards.shape)}"
                raise DataError(f"has shape {shapes}", place=name)
        if bool(torch.isinf(self.rewards).any()):
            raise DataError("a reward is infinite", place="rewards", hint="an abstained reward is NaN")

    @classmethod
    def of(cls, rewards: Sequence[float | None], groups: Sequence[int]) -> GroupedRewards:
        """From plain lists; None abstains."""
        values = [float("nan") if reward is None else reward for reward in rewards]
        return cls(torch.tensor(values, dtype=torch.float64), torch.tensor(groups, dtype=torch.int64))


@dataclass(frozen=True, slots=True)
class Advantages:
    """One advantage per reward [K], in float32; `counts` is false where nothing is trained, `kl` where KL has no say.

    The numbers are of groups and rewards: groups with rewards that differ are mixed, equal ones teach nothing, and
    those with a single reward that did not abstain have nothing to be compared with.
    """

    values: Tensor
    counts: Tensor
    kl: Tensor
    num_groups: int
    num_equal_groups: int
    num_single_groups: int
    num_abstained: int

    @property
    def mixed_share(self) -> float:
        """Share of the groups that teach something; 0.0 without any."""
        mixed = self.num_groups - self.num_equal_groups - self.num_single_groups
        return mixed / self.num_groups if self.num_groups else 0.0

    def over_tokens(self, rewards_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(advantages, counts, kl) per token, `rewards_N` holding the number of the reward that a token lives off.

        That is its sequence's number, or its step's; -1 marks a token after the last step, which no reward follows:
        its advantage is 0 and it does not count.
        """
        known_N = rewards_N >= 0
        index_N = rewards_N.clamp(min=0)
        values_N = torch.where(known_N, self.values[index_N], self.values.new_zeros(()))
        return values_N, self.counts[index_N] & known_N, self.kl[index_N] & known_N


class Credit(Protocol):
    """A way from rewards to advantages, a part of `rung.train.credit`."""

    def advantages(self, rewards: GroupedRewards) -> Advantages:
        """The advantages of a whole step's rewards; a group must be whole."""


def credit_by_group(
    rewards: GroupedRewards, within: Callable[[Tensor], Tensor], equal_groups: Literal["keep", "no_kl", "drop"]
) -> Advantages:
    """Advantages from `within`, which maps the rewards of one group (two or more, not all equal) to theirs."""
    values_K = torch.zeros(len(rewards.rewards), dtype=torch.float64, device=rewards.rewards.device)
    given_K = ~torch.isnan(rewards.rewards)
    dull_K = torch.zeros_like(given_K)
    num_equal = num_single = 0
    groups = torch.unique(rewards.groups).tolist()
    for group in groups:
        members = torch.nonzero((rewards.groups == group) & given_K).squeeze(1)
        own = rewards.rewards[members].double()
        if is_equal(own):
            dull_K |= rewards.groups == group
            num_single += len(members) < 2
            num_equal += len(members) >= 2
        else:
            values_K[members] = within(own)
    return Advantages(
        values=values_K.float(),
        counts=given_K & ~dull_K if equal_groups == "drop" else given_K,
        kl=given_K & ~dull_K if equal_groups != "keep" else given_K,
        num_groups=len(groups),
        num_equal_groups=num_equal,
        num_single_groups=num_single,
        num_abstained=int((~given_K).sum()),
    )


def is_equal(rewards_G: Tensor) -> bool:
    """Whether a group teaches nothing: no two of its rewards differ."""
    # Compared as they are: the spread of equal rewards is rounding, and rounding over epsilon is an advantage.
    return len(rewards_G) < 2 or bool((rewards_G == rewards_G[0]).all())


def center(rewards_G: Tensor) -> Tensor:
    """Each reward less the group's mean."""
    return rewards_G - rewards_G.mean()
