"""A third way of attending without a cache: prompts that stand once, each before all the texts that go on from it.

Legend: T token, H query heads, K key/value heads, d head width, S segment, L its padded length, P token of a prompt.

A prompt's tokens see the prompt; a continuation's see the prompt and themselves, never their siblings. On a CPU every
segment first attends to itself, segments of similar length as one batch, then all continuations of a group to their
prompt in one product, and the two are merged by their log-sum-exp (as in the online softmax of FlashAttention, arXiv
2205.14135). Backward needs only the merged output and log-sum-exp (as in Ring Attention, arXiv 2310.01889), so no
scores are ever kept. Short groups in bfloat16 are plain products, which are faster there. Elsewhere each group is one
masked attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rung.base.errors import ModelError
from rung.models.layers.attend import attend_causally, attend_short, filled, is_short

__all__ = ["SharedPrefixAttend"]

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

_PADDING_TOTAL = 1e4
"""Log-sum-exp of padding: large, so that its weights are exactly zero."""
_FEW_KEYS = 256


class SharedPrefixAttend:
    """One row of groups that lie one after another; see `rung.models.network.Attend`.

    Args:
        groups: of each, the tokens of its prompt and of its continuations, which follow it. Prompt length 0: the
            continuations are documents with nothing in common.
    """

    def __init__(self, groups: Sequence[tuple[int, Sequence[int]]]) -> None:
        self._groups = _Group.of(groups)
        self._num_tokens = sum(group.stop - group.start for group in self._groups)
        self._plans: dict[tuple[int, torch.device], _Plan] = {}
        self._masks: dict[tuple[int, int, torch.device], Tensor] = {}
        self._alike: _Alike | None = None

    def __call__(
        self, layer: int, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int
    ) -> Tensor:
        """Attention output [1, T, H, d]."""
        if query_BTHd.shape[:2] != (1, self._num_tokens):
            raise ModelError(
                f"the groups have {self._num_tokens} tokens, the batch is {tuple(query_BTHd.shape[:2])}",
                place="SharedPrefixAttend",
            )
        query_THd, key_TKd, value_TKd = (x.squeeze(0) for x in _in_autocast(query_BTHd, key_BTKd, value_BTKd))
        if not _has_flash(query_BTHd.device):
            return self._masked(query_THd, key_TKd, value_TKd, scale, window)[None]
        if is_short(query_BTHd, max((group.longest for group in self._groups), default=0)):
            return self._short(query_THd, key_TKd, value_TKd, scale, window)[None]
        seen_THd: Tensor = _Merged.apply(  # type: ignore[no-untyped-call]
            query_THd, key_TKd, value_TKd, replace(self._plan(window, query_BTHd.device), scale=scale)
        )
        return seen_THd[None]

    def _plan(self, window: int, device: torch.device) -> _Plan:
        if (window, device) not in self._plans:
            self._plans[window, device] = _Plan.of(self._groups, window, device)
        return self._plans[window, device]

    def _short(self, query_THd: Tensor, key_TKd: Tensor, value_TKd: Tensor, scale: float, window: int) -> Tensor:
        """Prompts by themselves; continuations of nearly equal length together, each with its prompt before it."""
        if self._alike is None:
            self._alike = _Alike.of(self._groups)
        plan, pieces = self._alike, []
        sorted_tokens = [x.index_select(0, plan.order) for x in (query_THd, key_TKd, value_TKd)]
        parts = zip(*(torch.split(x, plan.sizes) for x in sorted_tokens), strict=True)
        for group, counts in zip(self._groups, plan.counts, strict=True):
            prompt = [x[None] for x in next(parts)]
            pieces.append(attend_causally(*prompt, scale=scale, window=window)[0] if group.num_prompt else prompt[0][0])
            for count in counts:
                query, *own = (x.unflatten(0, (count, -1)) for x in next(parts))
                key, value = (
                    torch.cat([x.expand(count, -1, -1, -1), y], 1) for x, y in zip(prompt[1:], own, strict=True)
                )
                seen_QT = _seen(group.num_prompt, query.shape[1], window)
                pieces.append(attend_short(query, key, value, seen_QT, scale).flatten(0, 1))
        return torch.cat(pieces).index_select(0, plan.back)

    def _masked(self, query_THd: Tensor, key_TKd: Tensor, value_TKd: Tensor, scale: float, window: int) -> Tensor:
        pieces = []
        for number, group in enumerate(self._groups):
            query, key, value = (
                x[group.start : group.stop].transpose(0, 1)[None] for x in (query_THd, key_TKd, value_TKd)
            )
            if (number, window, query.device) not in self._masks:
                self._masks[number, window, query.device] = group.mask(window).to(query.device)
            mask = self._masks[number, window, query.device]
            gqa = query.shape[1] != key.shape[1]
            seen = functional.scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=gqa)
            pieces.append(seen[0].transpose(0, 1))
        return torch.cat(pieces)


@dataclass(frozen=True, slots=True)
class _Group:
    """Where a group stands in the row."""

    start: int
    num_prompt: int
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, groups: Sequence[tuple[int, Sequence[int]]]) -> tuple[_Group, ...]:
        """All groups of a row."""
        found, start = [], 0
        for num_prompt, lengths in groups:
            if num_prompt < 0 or any(length < 0 for length in lengths):
                raise ModelError("a length is negative", place="SharedPrefixAttend")
            found.append(cls(start, num_prompt, tuple(lengths)))
            start = found[-1].stop
        return tuple(found)

    @property
    def stop(self) -> int:
        """Where it ends."""
        return self.start + self.num_prompt + sum(self.lengths)

    def segments(self) -> list[tuple[int, int]]:
        """(start, length) of the prompt and of each continuation that has any token."""
        found, at = [], self.start
        for length in (self.num_prompt, *self.lengths):
            found.append((at, length))
            at += length
        return [(start, length) for start, length in found if length]

    @property
    def longest(self) -> int:
        """The most tokens that any of its tokens may look at."""
        return self.num_prompt + filled(max(self.lengths, default=0))

    def seeing(self, window: int) -> list[tuple[int, int]]:
        """(place, position) of the continuations' tokens that see any of the prompt; a window moves away from it."""
        most = window - 1 if window else self.stop
        prompt_end = self.start + self.num_prompt
        own = [segment for segment in self.segments() if segment[0] >= prompt_end]
        return [(at + o, self.num_prompt + o) for at, length in own for o in range(min(length, most))]

    def mask(self, window: int) -> Tensor:
        """True where a token of the group (row) sees another (column)."""
        segments = self.segments()
        number_T = torch.cat([torch.full((length,), i) for i, (_, length) in enumerate(segments)])
        if not self.num_prompt:
            number_T += 1  # no segment is everybody's
        position_T = torch.cat([torch.arange(length) for _, length in segments])
        position_T = torch.where(number_T > 0, position_T + self.num_prompt, position_T)
        ahead_TT = position_T[:, None] - position_T
        seen_TT = ((number_T[:, None] == number_T) | (number_T == 0)) & (ahead_TT >= 0)
        return seen_TT & (ahead_TT < window) if window else seen_TT


@dataclass(frozen=True, slots=True)
class _Alike:
    """The row in another `order`, in parts of these `sizes`: of each group its prompt, then its continuations of one
    filled length after another, so many of each (`counts`); and where every token of the row then stands (`back`).

    What fills a continuation up is its last token again, for something finite must stand there.
    """

    order: Tensor
    sizes: list[int]
    counts: tuple[tuple[int, ...], ...]
    back: Tensor

    @classmethod
    def of(cls, groups: Sequence[_Group]) -> _Alike:
        """For all groups of a row."""
        order, sizes, counts, back = list[int](), list[int](), [], dict[int, int]()
        for group in groups:
            own_start = group.start + group.num_prompt
            batches: dict[int, list[range]] = {}
            for start, length in group.segments():
                if start >= own_start:
                    batches.setdefault(filled(length), []).append(range(start, start + length))
            parts = [list(range(group.start, own_start))]
            for size, batch in sorted(batches.items()):
                parts.append([min(span.start + o, span.stop - 1) for span in batch for o in range(size)])
            for part in parts:
                for place in part:
                    back.setdefault(place, len(order))
                    order.append(place)
            sizes += map(len, parts)
            counts.append(tuple(len(batch) for _, batch in sorted(batches.items())))
        places = [torch.tensor(x, dtype=torch.long) for x in (order, [back[place] for place in range(len(back))])]
        return cls(places[0], sizes, tuple(counts), places[1])


@dataclass(frozen=True, slots=True)
class _Batch:
    """Segments that attend to themselves together: `places` [S, L] in the row (padding: the segment's first token),
    `real` [S, L], and the mask [L, L] to add where a window makes plain causal attention wrong."""

    places: Tensor
    real: Tensor
    bias: Tensor | None

    def gather(self, *tensors: Tensor) -> list[Tensor]:
        """[S, heads, L, d] of each."""
        return [x[self.places].transpose(1, 2) for x in tensors]


@dataclass(frozen=True, slots=True)
class _Look:
    """Continuations that look at their prompt: `places` of the tokens that see any of it, the slice of the row that
    they see, and the mask to add where a window hides some of that from some."""

    places: Tensor
    prompt: slice
    bias: Tensor | None

    def gather(self, query_THd: Tensor, key_TKd: Tensor, value_TKd: Tensor) -> list[Tensor]:
        """Queries of the continuations, keys and values of the prompt, each [1, heads, tokens, d]."""
        parts = (query_THd[self.places], key_TKd[self.prompt], value_TKd[self.prompt])
        return [part.transpose(0, 1)[None] for part in parts]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is computed for a row, the same for all layers of one window."""

    batches: tuple[_Batch, ...]
    looks: tuple[_Look, ...]
    scale: float = 1.0

    @classmethod
    def of(cls, groups: Sequence[_Group], window: int, device: torch.device) -> _Plan:
        """For layers whose tokens see `window` tokens (0: all)."""
        batches: dict[int, list[tuple[int, int]]] = {}
        for group in groups:
            for start, length in group.segments():
                # Padded to at most twice its length: a few large products instead of many small ones.
                batches.setdefault(length.bit_length(), []).append((start, length))
        looks = [_look(group, window, device) for group in groups if group.num_prompt and group.seeing(window)]
        return cls(tuple(_batch(segments, window, device) for segments in batches.values()), tuple(looks))


def _seen(num_prompt: int, num_own: int, window: int) -> Tensor:
    """Which of a prompt and of its own tokens each token of a continuation looks at [Q, T]."""
    ahead_QT = torch.arange(num_prompt, num_prompt + num_own)[:, None] - torch.arange(num_prompt + num_own)
    return (ahead_QT >= 0) & (ahead_QT < window) if window else ahead_QT >= 0


def _batch(segments: Sequence[tuple[int, int]], window: int, device: torch.device) -> _Batch:
    starts_S1, lengths_S1 = torch.tensor(segments, device=device)[:, :, None].unbind(1)
    offsets_L = torch.arange(int(lengths_S1.max()), device=device)
    real_SL = offsets_L < lengths_S1
    ahead_LL = offsets_L[:, None] - offsets_L
    bias_LL = _bias((ahead_LL >= 0) & (ahead_LL < window)) if 0 < window < len(offsets_L) else None
    return _Batch(starts_S1 + offsets_L * real_SL, real_SL, bias_LL)


def _look(group: _Group, window: int, device: torch.device) -> _Look:
    places_N, positions_N = torch.tensor(group.seeing(window), device=device).T
    first = max(group.num_prompt - window + 1, 0) if window else 0
    prompt = slice(group.start + first, group.start + group.num_prompt)
    seen_NP = positions_N[:, None] - torch.arange(first, group.num_prompt, device=device) < (window or group.stop)
    return _Look(places_N, prompt, None if bool(seen_NP.all()) else _bias(seen_NP))


def _bias(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)


class _Merged(torch.autograd.Function):
    """Every segment to itself and the continuations to their prompts; only output and log-sum-exp are kept."""

    @staticmethod
    def forward(ctx: Any, query_THd: Tensor, key_TKd: Tensor, value_TKd: Tensor, plan: _Plan) -> Tensor:
        """What every token sees [T, H, d]."""
        seen_THd = torch.empty_like(query_THd)
        total_TH = torch.empty(query_THd.shape[:2])
        for batch in plan.batches:
            seen, total = _see(batch.gather(query_THd, key_TKd, value_TKd), batch.bias, plan.scale, batch.bias is None)
            at = batch.places[batch.real]
            seen_THd[at] = seen.transpose(1, 2)[batch.real].to(seen_THd.dtype)
            total_TH[at] = total.transpose(1, 2)[batch.real]
        for look in plan.looks:
            seen, total = _see(look.gather(query_THd, key_TKd, value_TKd), look.bias, plan.scale, False)
            own_NH, prompt_NH = total_TH[look.places], total[0].T
            share_NH1 = torch.sigmoid(prompt_NH - own_NH)[..., None].to(seen.dtype)
            merged = torch.lerp(seen_THd[look.places].to(seen.dtype), seen[0].transpose(0, 1), share_NH1)
            seen_THd[look.places] = merged.to(seen_THd.dtype)
            total_TH[look.places] = torch.logaddexp(own_NH, prompt_NH)
        ctx.save_for_backward(query_THd, key_TKd, value_TKd, seen_THd, total_TH)
        ctx.plan = plan
        return seen_THd

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Each part's share, computed from the merged output and log-sum-exp."""
        query_THd, key_TKd, value_TKd, seen_THd, total_TH = ctx.saved_tensors
        asked, grads = (query_THd, key_TKd, value_TKd), [torch.empty_like(x) for x in ctx.saved_tensors[:3]]
        for batch in ctx.plan.batches:
            outer, seen = batch.gather(gradients[0], seen_THd)
            outer = outer.masked_fill(~batch.real[:, None, :, None], 0.0)
            total = total_TH[batch.places].transpose(1, 2).masked_fill(~batch.real[:, None], _PADDING_TOTAL)
            parts = (outer, *batch.gather(*asked), seen, total)
            found = _pull(parts, batch.bias, ctx.plan.scale, batch.bias is None)
            at = batch.places[batch.real]
            for grad, part in zip(grads, found, strict=True):
                grad[at] = part.transpose(1, 2)[batch.real].to(grad.dtype)
        for look in ctx.plan.looks:
            outer, seen, total = (x[look.places].transpose(0, 1)[None] for x in (gradients[0], seen_THd, total_TH))
            found = _pull((outer, *look.gather(*asked), seen, total.contiguous()), look.bias, ctx.plan.scale, False)
            for grad, part, at in zip(grads, found, (look.places, look.prompt, look.prompt), strict=True):
                grad[at] += part[0].transpose(0, 1).to(grad.dtype)
        return *grads, None


def _see(parts: Sequence[Tensor], bias: Tensor | None, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Output [S, H, queries, d] and log-sum-exp [S, H, queries] of query, key and value."""
    wide = _wide(parts, parts[1])
    seen, total = _flash(*wide, 0.0, causal, attn_mask=_as(bias, wide[0]), scale=scale)
    return seen, total


def _pull(parts: Sequence[Tensor], bias: Tensor | None, scale: float, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from that of the output, these three, the output and its log-sum-exp."""
    wide = _wide(parts[:-1], parts[2])
    query, key, value = _flash_backward(*wide, parts[-1], 0.0, causal, attn_mask=_as(bias, wide[0]), scale=scale)
    return query, key, value


def _wide(parts: Sequence[Tensor], key: Tensor) -> list[Tensor]:
    """In float32 where keys are few: there, without instructions for its tiles, the backward kernel takes three to
    four times as long in bfloat16, and nowhere less time."""
    return [x.float() if key.shape[2] < _FEW_KEYS else x for x in parts]


def _has_flash(device: torch.device) -> bool:
    """Whether the kernel that tells its log-sum-exp is there."""
    return device.type == "cpu"


def _as(bias: Tensor | None, like: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(like.dtype)


def _in_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As torch's own attention would take them."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(kind)) for x in tensors)
