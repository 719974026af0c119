"""A rank's queries against one block of keys and values: the output and the log-sum-exp that merging needs, and back.

Legend: B batch, T query, S key, H query heads, K key/value heads, d head width.

On a CPU torch's flash kernel is used, which tells its log-sum-exp; elsewhere the same in plain products in float32,
a few queries at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rung.models.parallel.cut import Piece

__all__ = ["fold", "pull", "see"]

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_QUERIES = 512


def fold(seen_BTHd: Tensor, total_BTH: Tensor, piece: Piece, part: tuple[Tensor, Tensor]) -> None:
    """Merge what a piece's queries saw into what they saw before, in float32 (the online softmax).

    `seen_BTHd` and `total_BTH` (log-sum-exp, at first -inf) are of all queries of the rank and are changed.
    """
    rows = slice(piece.q_start, piece.q_stop)
    own_BTH, part_BTH = total_BTH[:, rows], part[1].transpose(1, 2)
    share_BTH1 = torch.sigmoid(part_BTH - own_BTH)[..., None]
    seen_BTHd[:, rows].lerp_(part[0].transpose(1, 2).float(), share_BTH1)
    torch.logaddexp(own_BTH, part_BTH, out=own_BTH)


def see(query_BTHd: Tensor, key_BSKd: Tensor, value_BSKd: Tensor, piece: Piece, scale: float) -> tuple[Tensor, Tensor]:
    """Output [B, H, T, d] and log-sum-exp [B, H, T] of the piece's queries over its keys alone."""
    query, key, value = _cut(piece, query_BTHd, key_BSKd, value_BSKd)
    if query.device.type != "cpu":
        return _see_plainly(query, key, value, piece, scale)
    seen, total = _flash(
        query, key, value, 0.0, _is_plain_causal(piece), attn_mask=_bias(piece, query.dtype), scale=scale
    )
    return seen, total


def pull(
    outer_BTHd: Tensor, parts: Sequence[Tensor], seen_BTHd: Tensor, total_BTH: Tensor, piece: Piece, *, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The piece's share of the gradients of queries [B, T, H, d], keys and values [B, S, K, d].

    `outer_BTHd` is the gradient of the merged output, `seen_BTHd` that output, `total_BTH` its log-sum-exp; `parts`
    are the rank's queries and the block's keys and values.
    """
    query, key, value = _cut(piece, *parts)
    rows = slice(piece.q_start, piece.q_stop)
    outer, seen = (x[:, rows].transpose(1, 2) for x in (outer_BTHd, seen_BTHd))
    total = total_BTH[:, rows].transpose(1, 2).contiguous()
    if query.device.type != "cpu":
        found = _pull_plainly((outer, query, key, value, seen, total), piece, scale)
    else:
        causal, bias = _is_plain_causal(piece), _bias(piece, query.dtype)
        found = _flash_backward(outer, query, key, value, seen, total, 0.0, causal, attn_mask=bias, scale=scale)
    first, second, third = (x.transpose(1, 2) for x in found)
    return first, second, third


def _cut(piece: Piece, query_BTHd: Tensor, key_BSKd: Tensor, value_BSKd: Tensor) -> tuple[Tensor, ...]:
    """The piece's part of each, heads before tokens."""
    keys = slice(piece.k_start, piece.k_stop)
    parts = (query_BTHd[:, piece.q_start : piece.q_stop], key_BSKd[:, keys], value_BSKd[:, keys])
    return tuple(part.transpose(1, 2) for part in parts)


def _is_plain_causal(piece: Piece) -> bool:
    return piece.is_causal and not piece.is_full


def _bias(piece: Piece, dtype: torch.dtype, device: torch.device | None = None) -> Tensor | None:
    """What to add to the scores [T, S] where neither all is seen nor all up to the query itself."""
    if piece.is_full or piece.is_causal:
        return None
    return torch.zeros((), dtype=dtype, device=device).where(_seen(piece, device), -torch.inf)


def _seen(piece: Piece, device: torch.device | None) -> Tensor:
    queries_T = torch.arange(piece.lead, piece.lead + piece.q_stop - piece.q_start, device=device)
    ahead_TS = queries_T[:, None] - torch.arange(piece.k_stop - piece.k_start, device=device)
    seen_TS = ahead_TS >= 0
    return seen_TS & (ahead_TS < piece.window) if piece.window else seen_TS


def _scores(query: Tensor, key: Tensor, piece: Piece, scale: float, rows: slice) -> Tensor:
    """Masked scores [B, K, G, T, S] in float32 of some queries, G being the query heads of a key head."""
    grouped = _grouped(query[:, :, rows], key)
    scores = torch.einsum("bkgtd,bksd->bkgts", grouped, key.float()) * scale
    return scores if piece.is_full else scores.masked_fill_(~_seen(piece, query.device)[rows], -torch.inf)


def _grouped(heads: Tensor, key: Tensor) -> Tensor:
    """[B, H, ...] as [B, K, G, ...], in float32."""
    return heads.float().reshape(heads.shape[0], key.shape[1], -1, *heads.shape[2:])


def _see_plainly(query: Tensor, key: Tensor, value: Tensor, piece: Piece, scale: float) -> tuple[Tensor, Tensor]:
    seen, totals = [], []
    for start in range(0, query.shape[2], _QUERIES):
        scores = _scores(query, key, piece, scale, slice(start, start + _QUERIES))
        totals.append(scores.logsumexp(-1).flatten(1, 2))
        seen.append(torch.einsum("bkgts,bksd->bkgtd", scores.softmax(-1), value.float()).flatten(1, 2))
    return torch.cat(seen, 2).to(query.dtype), torch.cat(totals, 2)


def _pull_plainly(parts: Sequence[Tensor], piece: Piece, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    outer, query, key, value, seen, total = parts
    key_grad, value_grad, query_grads = torch.zeros_like(key.float()), torch.zeros_like(value.float()), []
    for start in range(0, query.shape[2], _QUERIES):
        rows = slice(start, start + _QUERIES)
        pulled, asked, answer, own = (_grouped(x[:, :, rows], key) for x in (outer, query, seen, total))
        weights = (_scores(query, key, piece, scale, rows) - own[..., None]).exp_()
        value_grad += torch.einsum("bkgts,bkgtd->bksd", weights, pulled)
        slopes = torch.einsum("bkgtd,bksd->bkgts", pulled, value.float()) - (pulled * answer).sum(-1, keepdim=True)
        slopes = slopes.mul_(weights).mul_(scale)
        key_grad += torch.einsum("bkgts,bkgtd->bksd", slopes, asked)
        query_grads.append(torch.einsum("bkgts,bksd->bkgtd", slopes, key.float()).flatten(1, 2))
    return torch.cat(query_grads, 2), key_grad, value_grad
