"""Log-probabilities by the plainest way there is: the whole text through the network at once, no cache, no packing.

Legend: T token, N asked-for place, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rung.models.layers.attend import CausalAttend
from rung.models.network import Network

__all__ = ["next_logprobs"]


@torch.inference_mode()
def next_logprobs(network: Network, token_ids: Sequence[int], first: int = 1) -> Tensor:
    """Natural logs of the probabilities of the tokens from place `first` on, each after all before it, [N]."""
    device = network.output_weight.device
    ids_1T = torch.tensor([list(token_ids)], device=device)
    positions_1T = torch.arange(len(token_ids), device=device)[None]
    hidden_TD = network.hidden(ids_1T, positions_1T, CausalAttend())[0]
    logits_NV = (hidden_TD[first - 1 : -1] @ network.output_weight.T).float()
    if network.softcap:
        logits_NV = network.softcap * torch.tanh(logits_NV / network.softcap)
    return logits_NV.log_softmax(-1).gather(1, ids_1T[0, first:, None])[:, 0]
