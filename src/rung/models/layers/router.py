"""Which experts a token goes to, and with what weight; always in float32, whatever the network computes in.

Softmax scores as in Switch (Fedus et al. 2021, arXiv 2101.03961) and Mixtral (arXiv 2401.04088); sigmoid scores as in
DeepSeek-V3 (arXiv 2412.19437). A bias may be added to the scores for the choice alone (Wang et al. 2024,
"Auxiliary-Loss-Free Load Balancing", arXiv 2408.15664): weights are of the scores without it, and no gradient reaches
it. It is kept as whole numbers of `PART`s, so that no cast of the network can round it.

Legend: N token, D width, E expert, k chosen expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PART", "Routed", "Router", "RouterOptions", "Scoring"]

PART = 2.0**-20
"""What one part of a bias is worth."""
Scoring = Literal["softmax", "sigmoid"]


class Routed(NamedTuple):
    """Each token's experts [N, k] with weights [N, k] that sum to 1; probabilities [N, E] that sum to 1, and the square
    of the log-sum-exp of the router's logits [N], for the losses."""

    experts: Tensor
    weights: Tensor
    probabilities: Tensor
    squared: Tensor


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Sizes and choices; `biased`: there is a bias for the choice."""

    width: int
    num_experts: int
    num_active: int
    scoring: Scoring = "softmax"
    biased: bool = False


class Router(nn.Module):
    """The `num_active` experts with the best scores."""

    bias_parts: Tensor | None

    def __init__(self, options: RouterOptions) -> None:
        super().__init__()
        self.options = options
        self.weight = nn.Parameter(torch.empty(options.num_experts, options.width))
        self.register_buffer(
            "bias_parts", torch.zeros(options.num_experts, dtype=torch.long) if options.biased else None
        )

    def forward(self, x_ND: Tensor) -> Routed:
        """The choice for every token."""
        with torch.autocast(x_ND.device.type, enabled=False):
            logits_NE = functional.linear(x_ND.float(), self.weight.float())
            scores_NE = logits_NE.softmax(-1) if self.options.scoring == "softmax" else logits_NE.sigmoid()
            ranked_NE = scores_NE if self.bias_parts is None else scores_NE + self.bias_parts * PART
            experts_Nk = ranked_NE.topk(self.options.num_active, dim=-1).indices
            chosen_Nk = scores_NE.gather(1, experts_Nk)
            weights_Nk = chosen_Nk / chosen_Nk.sum(-1, keepdim=True)
            if self.options.scoring == "sigmoid":
                scores_NE = scores_NE / scores_NE.sum(-1, keepdim=True)
            return Routed(experts_Nk, weights_Nk, scores_NE, logits_NE.logsumexp(-1).square())
