"""What a decode step needs at least, counted from the network's shapes, and what this machine can do at most, measured.

The count is a lower bound, so that the limit made of it is one: products alone (two operations for a multiplication and
an addition), every weight read once, every row's own keys and values; norms, softmax, draws and whatever lies between
layers count as nothing. A ceiling is the best time of a few: what disturbs can only slow down. The limit is the
roofline's (Williams, Waterman and Patterson 2009): the longer of operations over rate and bytes over bandwidth.

Legend: N rows, I inner width of a product, C columns.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from rung.models.layers.attention import Attention
from rung.models.network import Network

__all__ = ["Ceilings", "Work", "ceilings", "decode_work", "fastest", "product_rates", "products", "read_rate"]

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNKNOWN_CACHE = 64 << 20
SQUARES = (512, 1024, 2048)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SECONDS = 0.4  # for one ceiling


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of products, and bytes that must come from memory or go there."""

    flops: float
    num_bytes: float


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Operations per second by precision (squares: the best product of two square matrices), bytes per second."""

    squares: dict[str, float]
    bandwidth: float


def decode_work(network: Network, lengths: Sequence[int]) -> Work:
    """The least that one decode step takes for rows that look at `lengths` positions each, themselves included."""
    weights = [weight for same in products(network).values() for weight in same]
    flops = sum(2.0 * len(lengths) * weight.numel() for weight in weights)
    num_bytes = float(sum(weight.nbytes for weight in weights))
    for options in (module.options for module in network.modules() if isinstance(module, Attention)):
        seen = sum(min(length, options.window or length) for length in lengths)
        flops += 4.0 * seen * options.num_heads * options.head_width
        num_bytes += 2.0 * seen * options.num_kv_heads * options.head_width * weights[0].element_size()
    return Work(flops, num_bytes)


def products(network: Network, chunk: int = 0) -> dict[tuple[int, int], list[Tensor]]:
    """The weights [C, I] that a step multiplies by, by shape (I, C); the output projection last, and in pieces of
    `chunk` vocabulary rows where that is not 0."""
    head_VD = network.output_weight
    linear = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
    found: dict[tuple[int, int], list[Tensor]] = {}
    for weight in [w for w in linear if w is not head_VD] + list(torch.split(head_VD, chunk or len(head_VD))):
        found.setdefault((weight.shape[1], weight.shape[0]), []).append(weight)
    return found


def ceilings() -> Ceilings:
    """Measured now."""
    squares = {name: _best_square(dtype) for name, dtype in PRECISIONS.items()}
    return Ceilings(squares, read_rate(max(512 << 20, 8 * _last_cache())))


def product_rates(network: Network, chunk: int, num_rows: int, dtype: torch.dtype) -> dict[tuple[int, int], float]:
    """Operations per second at the very shapes of a step of `num_rows`, with the network's own weights."""
    return {shape: _rate(weights, num_rows, dtype) for shape, weights in products(network, chunk).items()}


def read_rate(num_bytes: int) -> float:
    """Bytes per second of reading that many: the best of a sum and of a product with a vector."""
    rows, width = num_bytes // 4 // 4096, 4096
    held, vector = torch.ones((rows, width)), torch.ones(width)
    return held.nbytes / min(fastest(held.sum), fastest(lambda: torch.mv(held, vector)))


def fastest(act: Callable[[], object], budget: float = _SECONDS) -> float:
    """Seconds of the quickest call, of as many as begin within the budget; one at least."""
    best = spent = _seconds(act)
    while spent < budget:
        seconds = _seconds(act)
        best, spent = min(best, seconds), spent + seconds
    return best


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _best_square(dtype: torch.dtype) -> float:
    """Of growing sizes, up to the first that takes long."""
    rates = []
    for size in SQUARES:
        one = torch.randn((size, size)).to(dtype)
        seconds = fastest(partial(torch.mm, one, one))
        rates.append(2.0 * size**3 / seconds)
        if seconds > _SECONDS / 8:
            break
    return max(rates)


@torch.inference_mode()
def _rate(weights: Sequence[Tensor], num_rows: int, dtype: torch.dtype) -> float:
    """With weights of one shape in turn, as many of them as no cache holds."""
    some = [weight.to(dtype) for weight in weights[: -(-4 * _last_cache() // weights[0].nbytes)]]
    rows_NI = torch.randn((num_rows, some[0].shape[1])).to(dtype)
    out_NC = torch.empty((num_rows, some[0].shape[0]), dtype=dtype)

    def multiply() -> None:
        """By every weight once."""
        for weight_CI in some:
            torch.mm(rows_NI, weight_CI.t(), out=out_NC)

    return 2.0 * num_rows * sum(weight.numel() for weight in some) / fastest(multiply)


def _last_cache() -> int:
    """Bytes of the largest cache of the first processor."""
    sizes = [re.fullmatch(r"(\d+)([KM])", file.read_text().strip()) for file in CACHES.glob("index*/size")]
    known = [int(size[1]) << {"K": 10, "M": 20}[size[2]] for size in sizes if size]
    return max(known, default=UNKNOWN_CACHE)
