"""Which batch sizes give the same bits on this machine, with this network, in this precision: tried, not assumed.

Matrix kernels choose their inner loops by shape, so a row's result may depend on how many rows are computed with it.
The probe decodes the same token in every row, at several batch sizes and padded lengths, from prompts of their own and
from shared ones, and keeps the sizes whose rows are all equal, bit for bit, to those of the full batch.

Legend: N rows, D width, C vocabulary chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rung.engine.attend import Piece
from rung.engine.cache import BLOCK, STEPS, Cache
from rung.engine.decode import DecodeAttend, Place
from rung.engine.forward import Forward
from rung.engine.head import Head, Needs
from rung.engine.prefill import ROWS, Prefill, Prompt
from rung.engine.store import Need, Store
from rung.models.network import Network

__all__ = ["COMMON", "SMALLEST", "Invariance", "candidate_counts", "invariance", "probe"]

SMALLEST = 4  # fewer rows fall into matrix-vector kernels with other bits; they cost about as much
COMMON = 16  # from here on all row counts tried had equal bits; some narrow products of fewer rows had not
_NUM_TOKENS = 9
_NUM_OWN = 5


@dataclass(frozen=True, slots=True)
class Invariance:
    """What the probe found. `counts` are safe batch sizes, ascending; `rejected` gave other bits. `exact` is False
    when even the full batch gives different bits at different rows or lengths, and then results may depend on
    neighbours. `step` is the finest granularity of the cached length that attention gives equal bits at."""

    counts: tuple[int, ...]
    rejected: tuple[int, ...]
    exact: bool
    step: int


def candidate_counts(num_slots: int) -> tuple[int, ...]:
    """Batch sizes worth having, ascending: the full one and its halves down to `SMALLEST`, in multiples of it, because
    the rows that are left over from a multiple of four often run in a kernel with other bits. `COMMON` is always among
    them: engines of few and of many slots then compare with the same kernels."""
    full = _rounded(num_slots)
    counts = {full, max(full, COMMON)}
    while full > SMALLEST:
        full = _rounded(full // 2)
        counts.add(full)
    return tuple(sorted(counts))


def _rounded(count: int) -> int:
    return max(SMALLEST, -(-count // SMALLEST) * SMALLEST)


_FOUND: WeakKeyDictionary[Network, dict[tuple[Any, ...], Invariance]] = WeakKeyDictionary()


def invariance(forward: Forward, head: Head, counts: tuple[int, ...]) -> Invariance:
    """What `probe` finds, tried once per network and process: kernels go by shapes, not by values."""
    weights = tuple((tuple(p.shape), p.dtype, p.device) for p in forward.network.parameters())
    known = _FOUND.setdefault(forward.network, {})
    key = (weights, head.chunk, counts, torch.get_num_threads())
    if key not in known:
        known[key] = probe(forward, head, counts)
    return known[key]


@torch.inference_mode()
def probe(forward: Forward, head: Head, counts: tuple[int, ...]) -> Invariance:
    """Run it on `counts` (ascending); costs about one decode step per count, and one of 500 rows."""
    network, full = forward.network, counts[-1]
    store = Store(network.shape, forward.dtype, forward.device)
    store.resize(Need(full, 2 * BLOCK, full, 2 * BLOCK))
    finest_step(store, network.shape.num_heads)
    prompts_agree = _prompts_agree(forward, store)
    for slot in range(full):
        store.prefixes.copy(0, slot, _NUM_TOKENS)
        for held, prompts in zip((*store.own.keys, *store.own.values), _tensors(store.prefixes), strict=True):
            held[slot, :, :_NUM_OWN] = prompts[0, :, :_NUM_OWN]
    reference = _rows(forward, head, store, _Shape(full))
    others = (_Shape(full, least=BLOCK), _Shape(full, least=2 * BLOCK), _Shape(full, users=full), _Shape(full, users=3))
    exact = (
        prompts_agree
        and _all_equal(reference, reference[:1])
        and all(torch.equal(_rows(forward, head, store, shape), reference) for shape in others)
        and torch.equal(_rows(forward, head, store, _Shape(full, lone=True))[:1], reference[:1])
    )
    kept = [c for c in counts[:-1] if _all_equal(_rows(forward, head, store, _Shape(c)), reference[:1])]
    rejected = tuple(c for c in counts[:-1] if c not in kept)
    return Invariance((*kept, full), rejected, exact, store.own.step)


def _tensors(cache: Cache) -> tuple[Tensor, ...]:
    return (*cache.keys, *cache.values)


def _prompts_agree(forward: Forward, store: Store) -> bool:
    """Whether a prompt's bits are the same alone, among many rows, and cut in two; it is left in slot 0."""
    vocabulary = forward.network.shape.vocabulary
    prefill = Prefill(forward, store.prefixes, ROWS)
    prompt = Prompt(tuple((7 * i + 3) % vocabulary for i in range(_NUM_TOKENS)), 0)
    whole, cut = Piece(0, 0, _NUM_TOKENS), _NUM_TOKENS // 2
    alone = prefill.compute(0, [(prompt, whole)])[:, :_NUM_TOKENS]
    crowded = (prefill.compute(0, [(prompt, whole)], rows)[:, :_NUM_TOKENS] for rows in (2 * ROWS, 5 * ROWS, 512))
    # the second part reads keys and values that the forward before wrote, and has company
    second = prefill.compute(0, [(prompt, Piece(0, cut, _NUM_TOKENS - cut)), (prompt, Piece(1, 0, _NUM_TOKENS))])
    return all(torch.equal(rows, alone) for rows in crowded) and torch.equal(
        second[:, : _NUM_TOKENS - cut], alone[:, cut:]
    )


def finest_step(store: Store, num_heads: int) -> int:
    """The first of `STEPS` whose every multiple, as the length looked at, gives attention the bits of a whole block.

    Tried on random keys and values in the first layer, which are cleared afterwards, at three positions.
    """
    held = [tensors[0] for cache in (store.own, store.prefixes) for tensors in (cache.keys, cache.values)]
    draw = torch.Generator().manual_seed(0)
    for tensor in held:
        block = tensor[:, :, :BLOCK]
        block.copy_(torch.randn(block.shape, generator=draw))
    num_slots, num_kv_heads, _, width = held[0].shape
    query, key, value = (
        torch.randn((num_slots, 1, count, width), generator=draw).to(held[0])
        for count in (num_heads, num_kv_heads, num_kv_heads)
    )

    def attended(position: int, length: int) -> Tensor:
        """Every slot's token at `position`, after as many of a prompt, looking at `length` places of both."""
        places = [Place(slot, position, slot, position) for slot in range(num_slots)]
        attend = DecodeAttend(store.own, store.prefixes, places, minimum=length)
        return attend(0, query, key, value, scale=width**-0.5, window=0)

    whole = {position: attended(position, BLOCK) for position in (_NUM_TOKENS, 70, 130)}
    for step in STEPS:
        store.set_step(step)
        lengths = range(step, BLOCK, step)
        if all(torch.equal(attended(p, n), same) for p, same in whole.items() for n in lengths if n > p):
            break
    for tensor in held:
        tensor.zero_()
    return store.own.step


@dataclass(frozen=True, slots=True)
class _Shape:
    """A step of `rows` rows, `users` of which share a prompt at a time, looking at no fewer than `least` places; where
    it is `lone`, the first row alone has a prompt."""

    rows: int
    users: int = 1
    least: int = 0
    lone: bool = False


def _rows(forward: Forward, head: Head, store: Store, shape: _Shape) -> Tensor:
    """Everything that later decides a token, [N, D + 3]."""
    num_before = [0 if shape.lone and row else _NUM_TOKENS for row in range(shape.rows)]
    places = [Place(row, _NUM_OWN, row // shape.users, num) for row, num in enumerate(num_before)]
    attend = DecodeAttend(store.own, store.prefixes, places, minimum=shape.least)
    position = _NUM_TOKENS + _NUM_OWN
    hidden_ND = forward.hidden([[5]] * shape.rows, [[position]] * shape.rows, attend)[:, 0]
    warm = torch.full((shape.rows,), 1.25, device=hidden_ND.device)
    outcome = head.run(hidden_ND, Needs(totals=True, entropies=True, times=warm))
    assert outcome.total is not None
    assert outcome.entropy is not None
    assert outcome.sampling_total is not None
    figures = torch.stack((outcome.total, outcome.entropy, outcome.sampling_total), dim=1)
    return torch.cat((hidden_ND.float(), outcome.logits.amax(1, keepdim=True), figures), dim=1)


def _all_equal(rows_NX: Tensor, first_1X: Tensor) -> bool:
    return torch.equal(rows_NX, first_1X.expand_as(rows_NX))
