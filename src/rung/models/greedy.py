"""Greedy continuation for the guard: a few prompts, a few tokens, no engine.

Legend: B batch, T token, H query heads, K key/value heads, d head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rung.models.families.fallback import Fallback
from rung.models.layers.attend import CausalAttend
from rung.models.network import Network

__all__ = ["continue_greedily", "next_log_probabilities"]


class _Growing:
    """An `Attend` that keeps all keys and values of left-padded rows."""

    def __init__(self, padding: Sequence[int]) -> None:
        self._padding_B = torch.tensor(padding)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(
        self, layer: int, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int
    ) -> Tensor:
        """Attention output [B, T, H, d]; see `rung.models.network.Attend`."""
        if layer in self._kept:
            old_key, old_value = self._kept[layer]
            key_BTKd, value_BTKd = torch.cat([old_key, key_BTKd], 1), torch.cat([old_value, value_BTKd], 1)
        self._kept[layer] = (key_BTKd, value_BTKd)
        num_new, num_all = query_BTHd.shape[1], key_BTKd.shape[1]
        at_T = torch.arange(num_all, device=query_BTHd.device)
        distance = at_T[num_all - num_new :, None] - at_T[None]
        seen = (distance >= 0) & (distance < (window or num_all))
        real_BT = at_T[None] >= self._padding_B.to(query_BTHd.device)[:, None]
        # a padded query looks at itself, for a row with nothing to look at comes out as NaN
        mask_BTT = (seen[None] & real_BT[:, None]) | (distance == 0)[None]
        query, key, value = (x.transpose(1, 2) for x in (query_BTHd, key_BTKd, value_BTKd))
        out = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask_BTT[:, None], scale=scale, enable_gqa=query.shape[1] != key.shape[1]
        )
        return out.transpose(1, 2)


@torch.no_grad()
def continue_greedily(
    network: Network, prompts: Sequence[Sequence[int]], num_new_tokens: int, end_ids: Sequence[int] = ()
) -> list[list[int]]:
    """The most likely continuation of each prompt, up to `num_new_tokens` or its end token, which is not returned."""
    if isinstance(network, Fallback):
        return [_wrapped(network, prompt, num_new_tokens, end_ids) for prompt in prompts]
    device = network.output_weight.device
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    ids_BT = torch.tensor([[0] * pad + list(p) for pad, p in zip(padding, prompts, strict=True)], device=device)
    positions_BT = (torch.arange(longest) - torch.tensor(padding)[:, None]).clamp(min=0).to(device)
    attend, rows = _Growing(padding), []
    for _ in range(num_new_tokens):
        last_BD = network.hidden(ids_BT, positions_BT, attend)[:, -1]
        ids_BT = (last_BD @ network.output_weight.T).argmax(-1, keepdim=True)
        positions_BT = positions_BT[:, -1:] + 1
        rows.append(ids_BT[:, 0])
    return [_until(row, end_ids) for row in torch.stack(rows, 1).tolist()]


@torch.no_grad()
def next_log_probabilities(network: Network, prompt: Sequence[int]) -> Tensor:
    """Log-probabilities [V] of the token after a prompt."""
    ids_1T = torch.tensor([list(prompt)], device=network.output_weight.device)
    positions_1T = torch.arange(len(prompt), device=ids_1T.device)[None]
    last_D = network.hidden(ids_1T, positions_1T, CausalAttend())[0, -1]
    logits_V = (network.output_weight @ last_D).float()
    if network.softcap > 0:
        logits_V = network.softcap * torch.tanh(logits_V / network.softcap)
    return logits_V.log_softmax(-1)


def _wrapped(network: Fallback, prompt: Sequence[int], num_new_tokens: int, end_ids: Sequence[int]) -> list[int]:
    ids_1T, cache, row = torch.tensor([list(prompt)], device=network.output_weight.device), None, []
    for _ in range(num_new_tokens):
        hidden, cache = network.step(ids_1T, cache)
        ids_1T = (network.output_weight @ hidden[0, -1]).argmax().reshape(1, 1)
        row.append(int(ids_1T))
    return _until(row, end_ids)


def _until(row: list[int], end_ids: Sequence[int]) -> list[int]:
    stop = next((at for at, token in enumerate(row) if token in end_ids), len(row))
    return row[:stop]
