"""The two ways of attending without a cache: whole rows, and rows of packed documents that cannot see each other.

Legend: B batch, T token, H query heads, K key/value heads, d head width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from rung.base.errors import ModelError
from rung.models.network import Attend

__all__ = [
    "STEP", "CausalAttend", "KnowsPadding", "PackedAttend", "attend_causally", "attend_short", "filled", "is_short",
    "real_tokens",
]  # fmt: skip

STEP = 16
_SHORT = 256  # tokens


@runtime_checkable
class KnowsPadding(Protocol):
    """An `Attend` that can tell padding from tokens, for layers that must not count padding."""

    def real(self, num_tokens: int, device: torch.device) -> Tensor | None:
        """True where a token is real [B, T]; None where all are."""


def real_tokens(attend: Attend, token_ids_BT: Tensor) -> Tensor | None:
    """True where a token is real [B, T]; None where all are, as far as `attend` knows."""
    return attend.real(token_ids_BT.shape[1], token_ids_BT.device) if isinstance(attend, KnowsPadding) else None


def attend_causally(
    query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int, mask: Tensor | None = None
) -> Tensor:
    """Causal attention of rows with themselves, [B, T, H, d]; query heads share key heads without copies of them.

    `mask` (True = may look; [B, 1, T, T]) replaces the causal-and-window mask when given.
    """
    if mask is None and is_short(query_BTHd, key_BTKd.shape[1]):
        seen_TT = _window_mask(query_BTHd.shape[1], window, query_BTHd.device)
        return attend_short(query_BTHd, key_BTKd, value_BTKd, seen_TT, scale)
    query, key, value = (x.transpose(1, 2) for x in (query_BTHd, key_BTKd, value_BTKd))
    num_tokens = query.shape[2]
    if mask is None and 0 < window < num_tokens:
        mask = _window_mask(num_tokens, window, query.device)
    seen = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return seen.transpose(1, 2)


def is_short(query_BTHd: Tensor, num_keys: int) -> bool:
    """Whether `attend_short` is the faster one: torch's fused kernel takes several times as long for the gradient of a
    short document in bfloat16 on a processor (measured: docs/LOG.md, 2026-11-30)."""
    if query_BTHd.device.type != "cpu" or num_keys > _SHORT or not torch.is_grad_enabled():
        return False
    return _computed_in(query_BTHd) == torch.bfloat16


def _computed_in(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def attend_short(query_BQHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, seen_QT: Tensor, scale: float) -> Tensor:
    """Attention as three plain products, in float32 inside; `seen_QT`: which keys a query looks at, in all rows."""
    num_docs, num_queries, num_heads, width = query_BQHd.shape
    num_keys, num_kv_heads = key_BTKd.shape[1:3]
    each, batch, dtype = num_heads // num_kv_heads, num_docs * num_kv_heads, _computed_in(query_BQHd)
    with torch.autocast("cpu", enabled=False):
        query = query_BQHd.float().view(num_docs, num_queries, num_kv_heads, each, width).permute(0, 2, 3, 1, 4)
        key = key_BTKd.float().permute(0, 2, 3, 1).reshape(batch, width, num_keys)
        value = value_BTKd.float().transpose(1, 2).reshape(batch, num_keys, value_BTKd.shape[3])
        bias = torch.zeros(num_queries, num_keys).masked_fill(~seen_QT, -torch.inf).repeat(each, 1)
        scores = torch.baddbmm(bias, query.reshape(batch, each * num_queries, width), key, alpha=scale)
        seen = torch.bmm(scores.softmax(-1), value).view(num_docs, num_kv_heads, each, num_queries, -1)
        return seen.permute(0, 3, 1, 2, 4).flatten(2, 3).to(dtype)


class CausalAttend:
    """Every row is one document. Rows may be padded: on the right at will (no real token looks there), on the left
    by `left_padding[b]` tokens, which no real token sees; callers start positions at the first real token."""

    def __init__(self, left_padding: Sequence[int] | None = None) -> None:
        self.left_padding = list(left_padding) if left_padding and any(left_padding) else None
        self._masks: dict[tuple[int, int, torch.device], Tensor] = {}

    def __call__(
        self, layer: int, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int
    ) -> Tensor:
        """Attention output [B, T, H, d]; see `rung.models.network.Attend`."""
        mask = None
        if self.left_padding is not None:
            mask = self._mask(query_BTHd.shape[1], window, query_BTHd.device)
        return attend_causally(query_BTHd, key_BTKd, value_BTKd, scale=scale, window=window, mask=mask)

    def real(self, num_tokens: int, device: torch.device) -> Tensor | None:
        """See `KnowsPadding`; padding on the right is not known here."""
        if self.left_padding is None:
            return None
        return torch.arange(num_tokens, device=device) >= torch.tensor(self.left_padding, device=device)[:, None]

    def _mask(self, num_tokens: int, window: int, device: torch.device) -> Tensor:
        key = (num_tokens, window, device)
        if key not in self._masks:
            real_BT = self.real(num_tokens, device)
            assert real_BT is not None
            # a padded query looks at itself, for a row with nothing to look at comes out as NaN
            itself_TT = torch.eye(num_tokens, dtype=torch.bool, device=device)
            seen_BTT = _window_mask(num_tokens, window, device) & real_BT[:, None, :]
            self._masks[key] = (seen_BTT | itself_TT)[:, None]
        return self._masks[key]


class PackedAttend:
    """Rows hold documents one after another; each is attended to alone, so none can leak into another.

    Args:
        lengths: for every row, the lengths of its documents in order. What remains of a row is padding and comes out
            as zeros.

    Documents of nearly equal length, from whichever rows, run as one batch: each is filled up at its end to a whole
    number of `STEP` tokens, where no token of its own looks.
    """

    def __init__(self, lengths: Sequence[Sequence[int]]) -> None:
        if any(length < 1 for row in lengths for length in row):
            raise ModelError("a packed document must have at least one token", place="PackedAttend")
        self.lengths = [list(row) for row in lengths]
        self._order: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}
        sizes = Counter(filled(length) for row in self.lengths for length in row)
        self._groups = sorted(sizes.items())

    def __call__(
        self, layer: int, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int
    ) -> Tensor:
        """Attention output [B, T, H, d]; see `rung.models.network.Attend`."""
        num_rows, num_tokens, num_heads, head_width = query_BTHd.shape
        self._check(num_rows, num_tokens)
        order, back = self._orders(num_tokens, query_BTHd.device)
        sorted_tokens = [x.flatten(0, 1).index_select(0, order) for x in (query_BTHd, key_BTKd, value_BTKd)]
        pieces, start = [query_BTHd.new_zeros((1, num_heads, head_width))], 0
        for size, count in self._groups:
            stop = start + size * count
            query, key, value = (x[start:stop].reshape(count, size, *x.shape[1:]) for x in sorted_tokens)
            pieces.append(attend_causally(query, key, value, scale=scale, window=window).flatten(0, 1))
            start = stop
        return torch.cat(pieces).index_select(0, back).reshape(query_BTHd.shape)

    def real(self, num_tokens: int, device: torch.device) -> Tensor | None:
        """See `KnowsPadding`: what remains of a row after its documents is padding."""
        ends = [sum(row) for row in self.lengths]
        if all(end == num_tokens for end in ends):
            return None
        return torch.arange(num_tokens, device=device) < torch.tensor(ends, device=device)[:, None]

    def _check(self, num_rows: int, num_tokens: int) -> None:
        longest = max((sum(row) for row in self.lengths), default=0)
        if len(self.lengths) != num_rows or longest > num_tokens:
            raise ModelError(
                f"lengths describe {len(self.lengths)} rows of up to {longest} tokens, the batch is "
                f"{num_rows} x {num_tokens}",
                place="PackedAttend",
            )

    def _orders(self, num_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which token stands where when documents are sorted by their filled length, and where every token's output
        stands then, after the one place that padding gets its zeros from."""
        key = (num_tokens, device)
        if key not in self._order:
            documents = sorted(
                (filled(length), row * num_tokens + start, length)
                for row, lengths in enumerate(self.lengths)
                for start, length in zip(accumulate(lengths, initial=0), lengths, strict=False)
            )
            order, back = list[int](), [0] * (len(self.lengths) * num_tokens)
            for size, start, length in documents:
                back[start : start + length] = range(1 + len(order), 1 + len(order) + length)
                # what fills up is the last token again, for something finite must stand there
                order += [*range(start, start + length), *[start + length - 1] * (size - length)]
            self._order[key] = (torch.tensor(order, device=device), torch.tensor(back, device=device))
        return self._order[key]


def filled(length: int) -> int:
    """The next whole number of `STEP` tokens."""
    return -(-length // STEP) * STEP


def _window_mask(num_tokens: int, window: int, device: torch.device) -> Tensor:
    """True where a query (row) may look at a key (column): causal, and within the window when it is not 0."""
    lower = torch.ones((num_tokens, num_tokens), dtype=torch.bool, device=device).tril()
    return lower.triu(1 - window) if window > 0 else lower
