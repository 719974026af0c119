"""Mixture of experts: many gated feed-forward layers, of which every token uses a few (Shazeer et al. 2017, arXiv
1701.06538; the block of Mixtral, arXiv 2401.04088).

Assignments (a token and one of its experts) are sorted by expert and go through all experts in grouped products. Each
expert's part of the table is filled up to a multiple of `PLACES` rows: kernels then give a token the same bits in any
company, as the engine needs, and meet few different shapes, which they prepare themselves for only once.

In training an expert may take no more than its capacity; later assignments are dropped in the order of tokens (so no
token's output depends on what comes after it), counted, and their token keeps what it had. Padding goes to no expert
and is not counted.

Legend: B batch, T token, N tokens of all rows, D width, F inner width, E expert, k chosen expert, M assignment,
R row of the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rung.models.layers.router import Routed, Router, RouterOptions

__all__ = ["PLACES", "Experts", "Noted", "SparseFeedForward"]

PLACES = 16


class Noted(NamedTuple):
    """What balancing needs of the real tokens of one layer's forward: assignments by expert [E] (whole numbers, before
    anything is dropped), summed probabilities [E] and squared log-sum-exps, both with gradients, and how many
    assignments were dropped and how many tokens there were."""

    assigned: Tensor
    probability: Tensor
    squared: Tensor
    dropped: Tensor
    num_tokens: Tensor


@dataclass(frozen=True, slots=True)
class Plan:
    """Assignments sorted by expert: which of N * k each is [M], its expert [M] and its place there [M], and how many
    every expert has [E]. Of those that are left out nothing is said."""

    order: Tensor
    experts: Tensor
    places: Tensor
    counts: Tensor

    @staticmethod
    def of(experts_Nk: Tensor, num_experts: int, real_N: Tensor | None = None, capacity: int = 0) -> Plan:
        """Of every real token's experts; no expert takes more than `capacity` (0: as many as come)."""
        chosen_M = experts_Nk.flatten()
        if real_N is not None:
            chosen_M = chosen_M.where(real_N.repeat_interleave(experts_Nk.shape[1]), num_experts)
        sorted_M, order_M = chosen_M.sort(stable=True)
        counts_E = _counts(chosen_M, num_experts)
        places_M = (
            torch.arange(len(order_M), device=order_M.device)
            - (counts_E.cumsum(0) - counts_E)[sorted_M.clamp(max=num_experts - 1)]
        )
        if real_N is not None or capacity:
            kept_M = sorted_M < num_experts
            if capacity:
                kept_M &= places_M < capacity
                counts_E = counts_E.clamp(max=capacity)
            sorted_M, order_M, places_M = sorted_M[kept_M], order_M[kept_M], places_M[kept_M]
        return Plan(order_M, sorted_M, places_M, counts_E)

    def table(self) -> tuple[Tensor, Tensor]:
        """The row of each assignment in a table where every expert has a multiple of `PLACES` rows [M], and where each
        expert's rows end [E]."""
        rows_E = (self.counts + PLACES - 1) // PLACES * PLACES
        ends_E = rows_E.cumsum(0)
        return (ends_E - rows_E)[self.experts] + self.places, ends_E.to(torch.int32)


class Experts(nn.Module):
    """The experts' weights, each kind in one tensor."""

    def __init__(self, num_experts: int, width: int, inner_width: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * inner_width, width))
        self.down_proj = nn.Parameter(torch.empty(num_experts, width, inner_width))

    def forward(self, x_ND: Tensor, weights_Nk: Tensor, plan: Plan) -> Tensor:
        """The weighted sum of what each token's experts say of it, [N, D]."""
        tokens_M = plan.order // weights_Nk.shape[1]
        weights_M = weights_Nk.flatten()[plan.order]
        dtype = _dtype(x_ND)
        rows_M, ends_E = plan.table()
        entering_RD = x_ND.new_zeros((int(ends_E[-1]), x_ND.shape[1]), dtype=dtype)
        entering_RD = entering_RD.index_copy(0, rows_M, x_ND.to(dtype)[tokens_M])
        gate, up = _grouped(entering_RD, self.gate_up_proj, ends_E).chunk(2, dim=-1)
        said_MD = _grouped(functional.silu(gate) * up, self.down_proj, ends_E)[rows_M]
        out_ND = torch.zeros_like(x_ND, dtype=torch.float32)
        return out_ND.index_add(0, tokens_M, said_MD * weights_M[:, None]).to(x_ND.dtype)


class SparseFeedForward(nn.Module):
    """A router and its experts."""

    def __init__(self, options: RouterOptions, inner_width: int, capacity_factor: float) -> None:
        super().__init__()
        self.capacity_factor = capacity_factor
        self.gate = Router(options)
        self.experts = Experts(options.num_experts, options.width, inner_width)

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None) -> tuple[Tensor, Noted | None]:
        """[B, T, D] to [B, T, D], and in training what balancing needs; where `real_BT` is False, zeros."""
        x_ND, real_N = x_BTD.flatten(0, 1), None if real_BT is None else real_BT.flatten()
        routed = self.gate(x_ND)
        plan = Plan.of(routed.experts, self.gate.options.num_experts, real_N, self._capacity(routed.experts, real_N))
        out_ND = self.experts(x_ND, routed.weights, plan)
        noted = self._noted(routed, plan, real_N) if self.training and torch.is_grad_enabled() else None
        return out_ND.view(x_BTD.shape), noted

    def _capacity(self, experts_Nk: Tensor, real_N: Tensor | None) -> int:
        if not (self.training and self.capacity_factor):
            return 0
        num_tokens = experts_Nk.shape[0] if real_N is None else int(real_N.sum())
        even = num_tokens * experts_Nk.shape[1] / self.gate.options.num_experts
        return max(1, math.ceil(self.capacity_factor * even))

    def _noted(self, routed: Routed, plan: Plan, real_N: Tensor | None) -> Noted:
        experts_Nk, probabilities_NE, squared_N = routed.experts, routed.probabilities, routed.squared
        if real_N is not None:
            experts_Nk, probabilities_NE, squared_N = experts_Nk[real_N], probabilities_NE[real_N], squared_N[real_N]
        assigned_E = _counts(experts_Nk.flatten(), self.gate.options.num_experts)
        return Noted(
            assigned_E,
            probabilities_NE.sum(0),
            squared_N.sum(),
            assigned_E.sum() - plan.counts.sum(),
            torch.tensor(len(experts_Nk), device=assigned_E.device),
        )


def _counts(chosen_M: Tensor, num_experts: int) -> Tensor:
    """How often each expert was chosen [E]; other numbers are left out."""
    every = torch.zeros(num_experts + 1, dtype=torch.long, device=chosen_M.device)
    return every.scatter_add_(0, chosen_M, torch.ones_like(chosen_M))[:num_experts]


def _dtype(x: Tensor) -> torch.dtype:
    """What products run in: grouped ones know nothing of autocast."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _grouped(x_RX: Tensor, weight_EYX: Tensor, ends_E: Tensor) -> Tensor:
    """Every row by its expert's matrix, [R, Y]."""
    return functional.grouped_mm(x_RX, weight_EYX.to(x_RX.dtype).transpose(1, 2), offs=ends_E)
