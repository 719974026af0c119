"""Ring attention (Liu, Zaharia and Abbeel 2023, arXiv 2310.01889): no rank ever holds the keys of the whole context.

Legend: B batch, T token of a rank, S token of a block, H query heads, K key/value heads, d head width.

Each rank keeps its queries; blocks of keys and values travel from rank to rank, posted before the block at hand is
computed. What is seen of each block is merged by its log-sum-exp in float32. Backward recomputes the scores of a block
from the merged output and log-sum-exp, the only things kept besides the rank's own queries, keys and values; the
blocks travel round once more, and behind each the gradient in float32 that other ranks add up; a last hop brings that
home. Three times W - 1 hops in all, as many as an all-gather, another for backward and a reduce-scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rung.base.errors import ModelError
from rung.models.parallel.block import fold, pull, see
from rung.models.parallel.circle import Circle, Clock, Pending
from rung.models.parallel.cut import Cut

__all__ = ["RingAttend"]


class RingAttend:
    """The tokens of this rank see those of the whole row, document by document; see `rung.models.network.Attend`.

    Args:
        cut: of the row; the batch holds the tokens `cut.indices(circle.rank)`, with their positions in the documents.
        circle: the ranks that hold the row.

    Raises:
        ModelError: the row is cut for another number of ranks.
    """

    def __init__(self, cut: Cut, circle: Circle) -> None:
        if cut.num_ranks != circle.size:
            raise ModelError(
                f"the row is cut for {cut.num_ranks} ranks, the ring has {circle.size}",
                place="RingAttend",
                hint="cut it again for this ring",
            )
        self.cut, self.circle = cut, circle

    def __call__(
        self, layer: int, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int
    ) -> Tensor:
        """Attention output [B, T, H, d] of this rank's tokens; every rank of the ring calls it for the same layer."""
        held = self.cut.num_held(self.circle.rank)
        if query_BTHd.shape[1] != held:
            raise ModelError(
                f"rank {self.circle.rank} of the ring holds {held} tokens, the batch has {query_BTHd.shape[1]}",
                place="RingAttend",
            )
        way = _Way(self.cut, self.circle, layer, scale, window)
        parts = _in_autocast(query_BTHd, key_BTKd, value_BTKd)
        seen_BTHd: Tensor = _Ring.apply(*parts, way)  # type: ignore[no-untyped-call]
        return seen_BTHd


@dataclass(frozen=True, slots=True)
class _Way:
    """What one layer's blocks need to go round."""

    cut: Cut
    circle: Circle
    layer: int
    scale: float
    window: int

    def source(self, number: int) -> int:
        """Whose block is here in a round."""
        return (self.circle.rank - number) % self.circle.size

    def room(self, number: int, like_2BSKd: Tensor, dtype: torch.dtype) -> Tensor:
        """Space for the block, or its gradient, that is here in a round [2, B, S, K, d]."""
        shape = list(like_2BSKd.shape)
        shape[2] = self.cut.num_held(self.source(number))
        return torch.empty(shape, dtype=dtype, device=like_2BSKd.device)


class _Ring(torch.autograd.Function):
    """Own queries, keys, values, the merged output and its log-sum-exp are kept; nothing of another rank is."""

    @staticmethod
    def forward(ctx: Any, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, way: _Way) -> Tensor:
        """What this rank's tokens see [B, T, H, d]."""
        block_2BTKd = torch.stack((key_BTKd, value_BTKd))
        seen_BTHd, total_BTH = _look_round(query_BTHd, block_2BTKd, way)
        seen_BTHd = seen_BTHd.to(query_BTHd.dtype)
        ctx.save_for_backward(query_BTHd, key_BTKd, value_BTKd, seen_BTHd, total_BTH)
        ctx.way = way
        return seen_BTHd

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of this rank's queries, keys and values."""
        query_BTHd, key_BTKd, value_BTKd, seen_BTHd, total_BTH = ctx.saved_tensors
        kept = (gradients[0], query_BTHd, seen_BTHd, total_BTH)
        query_grad, block_grad = _pull_round(kept, torch.stack((key_BTKd, value_BTKd)), ctx.way)
        key_grad, value_grad = block_grad.to(key_BTKd.dtype)
        return query_grad.to(query_BTHd.dtype), key_grad, value_grad, None


def _look_round(query_BTHd: Tensor, block_2BSKd: Tensor, way: _Way) -> tuple[Tensor, Tensor]:
    """Output in float32 and log-sum-exp; W - 1 hops."""
    circle, last = way.circle, way.circle.size - 1
    clock = Clock(circle, way.layer, "forward", query_BTHd.device)
    seen_BTHd = torch.zeros(query_BTHd.shape, dtype=torch.float32, device=query_BTHd.device)
    total_BTH = torch.full(query_BTHd.shape[:3], -torch.inf, device=query_BTHd.device)
    for number in range(circle.size):
        outgoing, incoming, coming = [], [], block_2BSKd
        if number < last:
            coming = way.room(number + 1, block_2BSKd, block_2BSKd.dtype)
            outgoing, incoming = [block_2BSKd], [coming]
        pending = _posted(clock, number, circle, outgoing, incoming)
        look = partial(_look_at_block, number, query_BTHd, block_2BSKd, (seen_BTHd, total_BTH), way)
        clock.timed(number, "compute", look)
        if pending:
            clock.timed(number, "wait", partial(circle.wait, pending))
        block_2BSKd = coming
    return seen_BTHd, total_BTH


def _look_at_block(
    number: int, query_BTHd: Tensor, block_2BSKd: Tensor, merged: tuple[Tensor, Tensor], way: _Way
) -> None:
    """Fold what the queries see of the block at hand into what is `merged`: output and log-sum-exp."""
    for piece in way.cut.pieces(way.circle.rank, way.source(number), way.window):
        fold(*merged, piece, see(query_BTHd, block_2BSKd[0], block_2BSKd[1], piece, way.scale))


def _pull_round(kept: tuple[Tensor, ...], block_2BSKd: Tensor, way: _Way) -> tuple[Tensor, Tensor]:
    """Gradients in float32 of the queries [B, T, H, d] and of the rank's own block [2, B, T, K, d].

    The rank's own share in its block's gradient stays here. In the rounds after, the next block and the gradient that
    the ranks before have added up for the present one arrive, and the gradient that was finished in the round before
    leaves; W - 1 hops of either. The last hop has nothing to hide behind.
    """
    circle = way.circle
    clock = Clock(circle, way.layer, "backward", block_2BSKd.device)
    query_grad = torch.zeros(kept[1].shape, dtype=torch.float32, device=block_2BSKd.device)
    own, leaving = torch.empty(0), None
    for number in range(circle.size):
        outgoing, incoming, arrived, coming = [], [], None, block_2BSKd
        if number < circle.size - 1:
            coming = way.room(number + 1, block_2BSKd, block_2BSKd.dtype)
            outgoing, incoming = [block_2BSKd], [coming]
        if leaving is not None:
            arrived = way.room(number, block_2BSKd, torch.float32)
            outgoing, incoming = [*outgoing, leaving], [*incoming, arrived]
        pending = _posted(clock, number, circle, outgoing, incoming)
        added = torch.zeros(block_2BSKd.shape, dtype=torch.float32, device=block_2BSKd.device)
        clock.timed(number, "compute", partial(_pull_block, number, kept, block_2BSKd, (query_grad, added), way))
        if pending:
            clock.timed(number, "wait", partial(circle.wait, pending))
        if number == 0:
            own = added
        else:
            leaving = added if arrived is None else arrived.add_(added)
        block_2BSKd = coming
    return query_grad, own if leaving is None else _home(clock, leaving, own, way)


def _pull_block(
    number: int, kept: tuple[Tensor, ...], block_2BSKd: Tensor, grads: tuple[Tensor, Tensor], way: _Way
) -> None:
    """Add the block's share to the `grads` of the queries and of the block."""
    outer_BTHd, query_BTHd, seen_BTHd, total_BTH = kept
    for piece in way.cut.pieces(way.circle.rank, way.source(number), way.window):
        parts = (query_BTHd, block_2BSKd[0], block_2BSKd[1])
        found = pull(outer_BTHd, parts, seen_BTHd, total_BTH, piece, scale=way.scale)
        keys = slice(piece.k_start, piece.k_stop)
        grads[0][:, piece.q_start : piece.q_stop] += found[0]
        grads[1][0, :, keys] += found[1]
        grads[1][1, :, keys] += found[2]


def _home(clock: Clock, leaving: Tensor, own: Tensor, way: _Way) -> Tensor:
    """The gradient of the rank's own block: its own share, and the others', which the next rank sends on."""
    circle = way.circle
    arrived = torch.empty_like(own)
    pending = _posted(clock, circle.size, circle, [leaving], [arrived])
    clock.timed(circle.size, "wait", partial(circle.wait, pending))
    return arrived.add_(own)


def _posted(
    clock: Clock, number: int, circle: Circle, outgoing: list[Tensor], incoming: list[Tensor]
) -> Sequence[Pending]:
    if not outgoing:
        return []
    num_bytes = sum(x.numel() * x.element_size() for x in outgoing)
    return clock.timed(number, "post", partial(circle.post, outgoing, incoming), num_bytes)


def _in_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As torch's own attention would take them."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(kind)) for x in tensors)
