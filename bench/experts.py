"""One mixture-of-experts block, forward and backward, against transformers' Mixtral block of the same weights.

Taking turns in one process, every round on tokens that neither has met, as in training: experts then get other numbers
of them each time, and kernels other shapes. transformers has several ways of computing its block; the fastest at each
size is the one compared with. Gradients of the input and of every weight are asked for. In bfloat16 both run under
autocast from float32 weights, as both libraries train.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from bench._paired import machine, paired
from rung.base.files import write_json
from rung.models.layers.experts import SparseFeedForward
from rung.models.layers.router import RouterOptions

__all__ = ["run"]

Block = Callable[[Tensor], Tensor]
WANTED = 1.5
WAYS = ("eager", "grouped_mm")
_WARM = 3


@dataclass(frozen=True)
class Size:
    """One block and how many tokens meet it."""

    num_tokens: int
    width: int
    inner_width: int
    rounds: int
    num_experts: int = 8
    num_active: int = 2


SIZES = {
    "coder 8m": Size(2048, 192, 240, 7),
    "width 512": Size(2048, 512, 1024, 5),
    "coder reference": Size(1024, 1536, 2048, 3),
}
QUICK = {"smallest": Size(64, 32, 48, 2)}


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure and write `bench_experts.json`; the medians in one line."""
    found = {
        f"{name}, {precision}": measure(size, precision)
        for name, size in (QUICK if quick else SIZES).items()
        for precision in ("bfloat16", "float32")
    }
    results_folder.mkdir(parents=True, exist_ok=True)
    values = {"machine": machine(), "quick": quick, "wanted_ratio": WANTED, "sizes": found}
    write_json(results_folder / "bench_experts.json", values)
    told = ", ".join(f"{name}: {one['ratio_median']}x" for name, one in found.items())
    return f"transformers' Mixtral block, {told} (wanted {WANTED}x)"


def measure(size: Size, precision: str) -> dict[str, Any]:
    """Tokens per second of both."""
    ours = _ours(size)
    blocks: dict[str, Block] = {"ours": lambda x: ours(x, None)[0]}
    blocks |= {way: _theirs(size, ours, way) for way in WAYS}
    seconds = {name: _warmed(block, size, precision) for name, block in blocks.items()}
    way = min(WAYS, key=lambda name: seconds[name])
    _same(*(_outcome(blocks[name], _tokens(size, 0), precision) for name in ("ours", way)), precision)
    turns = {name: itertools.count(1) for name in blocks}

    def speed(name: str) -> float:
        """Tokens per second of the next round; a round's tokens are the same for both."""
        return size.num_tokens / _seconds(blocks[name], _tokens(size, next(turns[name])), precision)

    found = paired(lambda: speed("ours"), lambda: speed(way), size.rounds)
    return found | {"size": vars(size), "unit": "tokens per second", "their_way": way, "warm_seconds": seconds}


def _tokens(size: Size, number: int) -> Tensor:
    """Hidden states with something in common, so that some experts are liked better, as in a real network."""
    generator = torch.Generator().manual_seed(number % 2**31)
    own_1ND = torch.randn(1, size.num_tokens, size.width, generator=generator)
    return (own_1ND + 0.3 * torch.randn(size.width, generator=generator)).requires_grad_()


def _warmed(block: Block, size: Size, precision: str) -> float:
    """Seconds of the fastest of a few rounds that are not counted, each on tokens of its own."""
    return min(_seconds(block, _tokens(size, -1 - turn), precision) for turn in range(_WARM))


def _ours(size: Size) -> SparseFeedForward:
    options = RouterOptions(size.width, size.num_experts, size.num_active)
    block = SparseFeedForward(options, size.inner_width, capacity_factor=0.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(0.0, size.width**-0.5, generator=generator)
    return block.train()


def _theirs(size: Size, ours: SparseFeedForward, way: str) -> Any:
    config = transformers.MixtralConfig(
        hidden_size=size.width,
        intermediate_size=size.inner_width,
        num_local_experts=size.num_experts,
        num_experts_per_tok=size.num_active,
    )
    config._experts_implementation = way
    block = MixtralSparseMoeBlock(config)
    block.load_state_dict(ours.state_dict())
    return block.train()


def _seconds(block: Block, x_1ND: Tensor, precision: str) -> float:
    start = time.perf_counter()
    _forward_backward(block, x_1ND, precision)
    return time.perf_counter() - start


def _forward_backward(block: Block, x_1ND: Tensor, precision: str) -> Tensor:
    narrow = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()
    with narrow:
        out_1ND = block(x_1ND)
    out_1ND.backward(torch.ones_like(out_1ND))
    return out_1ND.detach()


def _outcome(block: Block, x_1ND: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    x_1ND.grad = None
    out_1ND = _forward_backward(block, x_1ND, precision)
    assert x_1ND.grad is not None
    return out_1ND, x_1ND.grad


def _same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], precision: str) -> None:
    """Both compute the same thing, or there is nothing to compare. In bfloat16 a token near the border may go to other
    experts, for the router of one is narrow: so of most tokens."""
    for ours, theirs in zip(one, other, strict=True):
        error_N = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)
        assert float(error_N.flatten().quantile(0.9)) < (3e-2 if precision == "bfloat16" else 1e-4)
