"""Keeping experts in even use, by either method or by both.

*Auxiliary loss* (Switch, arXiv 2101.03961; GShard, arXiv 2006.16668): weight * E * sum_i f_i P_i, averaged over layers,
where f_i is expert i's share of all assignments and P_i its mean probability; even use gives the weight itself, its
minimum. *Bias* (arXiv 2408.15664, DeepSeek-V3): after each step every expert's bias goes up by the rate if it got less
than the mean load and down if it got more; no loss, no gradient. A z-loss (ST-MoE, arXiv 2202.08906) keeps the router's
logits small.

f counts whole steps, all micro-batches and ranks. It is not known before a step's last forward, so the loss uses that
of the step before (even use, at first): its gradient then does not depend on how a step is cut into rows.

Legend: L layer, E expert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rung.models.layers.experts import Noted
from rung.models.layers.router import PART, Router

__all__ = ["BalanceOptions", "ExpertBalance", "balance_loss", "max_violation"]


@dataclass(frozen=True, slots=True)
class BalanceOptions:
    """How much each method acts; 0 switches it off."""

    loss_weight: float
    bias_rate: float
    z_weight: float


def balance_loss(shares_LE: Tensor, probabilities_LE: Tensor) -> Tensor:
    """E * sum_i f_i P_i of every layer [L]; shares of assignments and mean probabilities each sum to 1."""
    return shares_LE.shape[-1] * (shares_LE * probabilities_LE).sum(-1)


def max_violation(load_LE: Tensor) -> Tensor:
    """By how much of the mean load the busiest expert of every layer exceeds it [L]; 0 is even use."""
    return load_LE.amax(-1) / load_LE.double().mean(-1) - 1


class ExpertBalance:
    """The `rung.models.network.Balance` of a network with experts.

    `load` [L, E] are the assignments of the last step, of all ranks.
    """

    def __init__(self, options: BalanceOptions, routers: Sequence[Router]) -> None:
        self.options, self.routers = options, list(routers)
        # on the CPU even while a network is built on the meta device
        self.load = torch.zeros((len(self.routers), routers[0].options.num_experts), dtype=torch.long, device="cpu")
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._sums: Tensor | None = None

    @property
    def state(self) -> Mapping[str, Tensor]:
        """See `Balance`."""
        biases = {f"balance.{i}.bias": r.bias_parts for i, r in enumerate(self.routers) if r.bias_parts is not None}
        return {"balance.load": self.load, **biases}

    def note(self, noted: Sequence[Noted]) -> None:
        """Remember one forward: of every layer what it noted."""
        assigned_LE, probability_LE, squared_L, dropped_L, num_L = (torch.stack(x) for x in zip(*noted, strict=True))
        loss = self.options.loss_weight * balance_loss(self._shares(assigned_LE.device), probability_LE).mean()
        if self.options.z_weight:
            loss = loss + self.options.z_weight * squared_L.mean()
        sums = torch.cat([assigned_LE, probability_LE.detach(), dropped_L[:, None], num_L[:, None]], dim=1).double()
        self._pending.append((loss, sums))

    def take_loss(self, counts: bool = True) -> Tensor:
        """See `Balance`."""
        taken = torch.zeros((), device=self.routers[0].weight.device)
        for loss, sums in self._pending:
            taken = taken + loss * counts
            if counts:
                self._sums = sums if self._sums is None else self._sums + sums
        self._pending = []
        return taken

    def settle(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> Mapping[str, float]:
        """See `Balance`. Figures: the loss without its weight (1: even use), the largest violation of any layer, the
        share of assignments that were dropped, and every expert's share of the assignments, over all layers."""
        num_experts, device = self.load.shape[1], self.routers[0].weight.device
        local = self.load.new_zeros((len(self.load), 2 * num_experts + 2), dtype=torch.double).to(device)
        sums = sum_over_ranks(local if self._sums is None else self._sums).cpu()
        self.forget()
        load_LE, probability_LE, dropped_L, num_L = torch.split(sums, [num_experts, num_experts, 1, 1], dim=1)
        if not bool(num_L.all()):
            return {}
        self.load.copy_(load_LE)
        self._move_biases()
        shares_LE = load_LE / load_LE.sum(1, keepdim=True)
        return {
            "experts/balance_loss": float(balance_loss(shares_LE, probability_LE / num_L).mean()),
            "experts/max_violation": float(max_violation(load_LE).max()),
            "experts/dropped": float(dropped_L.sum() / load_LE.sum()),
            **{f"experts/load_{expert}": share for expert, share in enumerate(shares_LE.mean(0).tolist())},
        }

    def forget(self) -> None:
        """See `Balance`."""
        self._pending, self._sums = [], None

    def _shares(self, device: torch.device) -> Tensor:
        """Each expert's share of the last step's assignments [L, E]; even before the first."""
        total_L1 = self.load.sum(1, keepdim=True)
        even = torch.full(self.load.shape, 1.0 / self.load.shape[1])
        return torch.where(total_L1 > 0, self.load / total_L1.clamp(min=1), even).to(device)

    @torch.no_grad()
    def _move_biases(self) -> None:
        """A router whose weights are frozen keeps its bias too: an adapter's file would not hold it."""
        parts = round(self.options.bias_rate / PART)
        for router, load_E in zip(self.routers, self.load, strict=True):
            if router.bias_parts is not None and router.weight.requires_grad:
                up_E = torch.sign(load_E.sum() - len(load_E) * load_E)
                router.bias_parts += parts * up_E.to(router.bias_parts.device)
