"""Gates of policy optimisation: which samples may still move the policy, given how far it has moved already.

Legend: N trained token.

Each has three parts: `hold` acts on log-ratios before a sequence's mean is taken, `surrogate` is what is maximised, and
`clipped` says which tokens lost their gradient (fallen far enough, risen far enough, bounded).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Clip", "Gate", "LogClip", "Soft", "WeightCap"]

Clipped = tuple[Tensor, Tensor, Tensor]


class Gate(Protocol):
    """What every gate does; all arguments are [N]."""

    def hold(self, log_ratios_N: Tensor, advantages_N: Tensor) -> Tensor:
        """The log-ratios that a mean may be taken of."""

    def surrogate(self, ratios_N: Tensor, logprobs_N: Tensor, advantages_N: Tensor) -> Tensor:
        """What is maximised."""

    def clipped(self, log_ratios_N: Tensor, ratios_N: Tensor, advantages_N: Tensor) -> Clipped:
        """Masks of the tokens that are (clipped low, clipped high, capped)."""


@dataclass(frozen=True, slots=True)
class Clip:
    """PPO's clip with two bounds (clip-higher: DAPO, arXiv 2503.14476).

    `cap` bounds the ratio where the advantage is negative: dual clip (Ye et al., 2019, arXiv 1912.09729) and the
    two-sided clip of INTELLECT-2 (arXiv 2505.07291) are the same function as long as cap > 1 + high.
    """

    low: float
    high: float
    cap: float | None = None

    def hold(self, log_ratios_N: Tensor, advantages_N: Tensor) -> Tensor:
        """Nothing is held."""
        return log_ratios_N

    def surrogate(self, ratios_N: Tensor, logprobs_N: Tensor, advantages_N: Tensor) -> Tensor:
        """min(r A, clip(r) A), for A < 0 at least cap * A."""
        held_N = ratios_N.clamp(1 - self.low, 1 + self.high)
        surrogate_N = torch.minimum(ratios_N * advantages_N, held_N * advantages_N)
        if self.cap is None:
            return surrogate_N
        return torch.where(advantages_N < 0, torch.maximum(surrogate_N, self.cap * advantages_N), surrogate_N)

    def clipped(self, log_ratios_N: Tensor, ratios_N: Tensor, advantages_N: Tensor) -> Clipped:
        """A ratio outside, on the side to which its advantage pushes."""
        down_N, up_N = advantages_N < 0, advantages_N > 0
        capped_N = down_N & (ratios_N > (float("inf") if self.cap is None else self.cap))
        return down_N & (ratios_N < 1 - self.low), up_N & (ratios_N > 1 + self.high), capped_N


@dataclass(frozen=True, slots=True)
class LogClip:
    """The clip of GMPO (arXiv 2507.20673): each token's log-ratio, before the geometric mean is taken.

    A token is held only on the side to which its advantage pushes it.
    """

    low: float
    high: float

    def hold(self, log_ratios_N: Tensor, advantages_N: Tensor) -> Tensor:
        """At most `high` where the advantage is positive, at least -`low` where it is negative."""
        fallen_N = torch.where(advantages_N < 0, log_ratios_N.clamp(min=-self.low), log_ratios_N)
        return torch.where(advantages_N > 0, log_ratios_N.clamp(max=self.high), fallen_N)

    def surrogate(self, ratios_N: Tensor, logprobs_N: Tensor, advantages_N: Tensor) -> Tensor:
        """r A, with what was held in r."""
        return ratios_N * advantages_N

    def clipped(self, log_ratios_N: Tensor, ratios_N: Tensor, advantages_N: Tensor) -> Clipped:
        """A token's log-ratio outside, on the side to which its advantage pushes."""
        low_N = (advantages_N < 0) & (log_ratios_N < -self.low)
        return low_N, (advantages_N > 0) & (log_ratios_N > self.high), torch.zeros_like(low_N)


@dataclass(frozen=True, slots=True)
class Soft:
    """SAPO's sigmoid in place of a clip (arXiv 2511.20347): 4 / tau sigmoid(tau (r - 1)), of slope 1 at r = 1."""

    positive: float
    negative: float

    def hold(self, log_ratios_N: Tensor, advantages_N: Tensor) -> Tensor:
        """Nothing is held."""
        return log_ratios_N

    def surrogate(self, ratios_N: Tensor, logprobs_N: Tensor, advantages_N: Tensor) -> Tensor:
        """The gate's value times the advantage; tau is larger where the advantage is not positive."""
        tau_N = torch.full_like(ratios_N, self.negative).masked_fill(advantages_N > 0, self.positive)
        return torch.sigmoid(tau_N * (ratios_N - 1)) * 4 / tau_N * advantages_N

    def clipped(self, log_ratios_N: Tensor, ratios_N: Tensor, advantages_N: Tensor) -> Clipped:
        """None: every token keeps a gradient."""
        nothing_N = torch.zeros_like(ratios_N, dtype=torch.bool)
        return nothing_N, nothing_N, nothing_N


@dataclass(frozen=True, slots=True)
class WeightCap:
    """CISPO's clip of the importance weight (MiniMax-M1, arXiv 2506.13585; ScaleRL, arXiv 2510.13786).

    A constant weight on the log-probability: no token loses its gradient.
    """

    cap: float

    def hold(self, log_ratios_N: Tensor, advantages_N: Tensor) -> Tensor:
        """Nothing is held."""
        return log_ratios_N

    def surrogate(self, ratios_N: Tensor, logprobs_N: Tensor, advantages_N: Tensor) -> Tensor:
        """min(r, cap) A log p, the weight without a gradient."""
        return ratios_N.detach().clamp(max=self.cap) * advantages_N * logprobs_N

    def clipped(self, log_ratios_N: Tensor, ratios_N: Tensor, advantages_N: Tensor) -> Clipped:
        """Those whose weight was bounded; they keep a gradient."""
        nothing_N = torch.zeros_like(ratios_N, dtype=torch.bool)
        return nothing_N, nothing_N, (ratios_N > self.cap) & (advantages_N != 0)
