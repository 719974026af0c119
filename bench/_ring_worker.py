"""The ranks of the ring's benchmark: attention of one layer, forward and backward, in three ways.

`python -m bench._ring_worker RANKS LENGTHS ROUNDS` imports once, forks the ranks and prints JSON: of each length and
way, seconds of the slowest rank, bytes that crossed the loopback device, and peak memory of each rank above its inputs.

Legend: T token of a rank, H query heads, K key/value heads, d head width.
"""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor.experimental._context_parallel import _attention as torchs

from rung.models.parallel.block import fold, pull, see
from rung.models.parallel.circle import Circle
from rung.models.parallel.cut import Cut, Piece
from rung.models.parallel.ring import RingAttend

__all__ = ["HEADS", "WIDTH", "public_interface"]

HEADS, WIDTH = (4, 2), 64
SCALE = WIDTH**-0.5
KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
KERNEL_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
Way = Callable[[int, list[Tensor], Tensor], list[Tensor]]


def ring(num_tokens: int, parts: list[Tensor], outer: Tensor) -> list[Tensor]:
    """Ours."""
    circle = Circle(dist.group.WORLD)
    seen = RingAttend(Cut([num_tokens], circle.size), circle)(0, *parts, scale=SCALE, window=0)
    return [seen.detach(), *torch.autograd.grad(seen, parts, outer)]


def gathered(num_tokens: int, parts: list[Tensor], outer: Tensor) -> list[Tensor]:
    """All keys and values on every rank, as Llama 3 was trained (arXiv 2407.21783), in the same order of tokens and
    with the same kernel: an all-gather before, a reduce-scatter of gradients after."""
    rank, size = dist.get_rank(), dist.get_world_size()
    cut = Cut([num_tokens], size)
    query, key, value = (part.detach() for part in parts)
    blocks = torch.stack((key, value))
    everyone = list(blocks.new_empty((size, *blocks.shape)))
    dist.all_gather(everyone, blocks)
    seen, total = torch.zeros_like(query), torch.full(query.shape[:3], -torch.inf)
    pieces: list[tuple[int, Piece]] = [(source, p) for source in range(size) for p in cut.pieces(rank, source, 0)]
    for source, piece in pieces:
        fold(seen, total, piece, see(query, everyone[source][0], everyone[source][1], piece, SCALE))
    query_grad, grads = torch.zeros_like(query), torch.zeros((size, *blocks.shape))
    for source, piece in pieces:
        asked = (query, everyone[source][0], everyone[source][1])
        found = pull(outer, asked, seen, total, piece, scale=SCALE)
        query_grad[:, piece.q_start : piece.q_stop] += found[0]
        for kind in (0, 1):
            grads[source, kind, :, piece.k_start : piece.k_stop] += found[1 + kind]
    own = torch.empty_like(blocks)
    dist.reduce_scatter(own, list(grads))
    return [seen, query_grad, own[0], own[1]]


def torchs_ring(num_tokens: int, parts: list[Tensor], outer: Tensor) -> list[Tensor]:
    """What torch's context parallelism runs on a GPU, given the kernel of a CPU: its public interface knows none."""
    query, key, value = (part.detach().transpose(1, 2) for part in parts)
    group = dist.group.WORLD
    seen, total = torchs._templated_ring_attention(
        group, 2, KERNEL, query, key, value, is_causal=True, dropout_p=0.0, scale=SCALE
    )[:2]
    grads = torchs._templated_ring_attention_backward(
        group, 2, KERNEL_BACKWARD, outer.transpose(1, 2), "grad_out", query, key, value, seen, total,
        is_causal=True, dropout_p=0.0, scale=SCALE,
    )  # fmt: skip
    return [x.transpose(1, 2) for x in (seen, *grads[:3])]


WAYS: dict[str, Way] = {"ring": ring, "all-gather": gathered, "torch's ring": torchs_ring}


def public_interface() -> str:
    """What `torch.distributed.tensor.experimental.context_parallel` says to a CPU; empty when it runs."""
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    parts = [torch.randn(1, 4, 64, WIDTH) for _ in range(3)]
    try:
        with torchs.context_parallel(mesh, buffers=parts, buffer_seq_dims=[2] * 3):
            torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
    except Exception as error:  # noqa: BLE001 - reported as the result
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return ""


def measured(way: Way, num_tokens: int, rounds: int) -> tuple[dict[str, Any], list[Tensor]]:
    """One way at one length on this rank, and what it found."""
    rank, size = dist.get_rank(), dist.get_world_size()
    own = Cut([num_tokens], size).num_held(rank)
    draw = torch.Generator().manual_seed(rank)
    shapes = [(1, own, heads, WIDTH) for heads in (HEADS[0], HEADS[1], HEADS[1], HEADS[0])]
    *parts, outer = (torch.randn(shape, generator=draw) for shape in shapes)
    parts = [part.requires_grad_() for part in parts]
    # What earlier ways left to the allocator is given back, so that each begins with as little.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, seconds, sent = _memory("VmRSS"), [], 0
    found: list[Tensor] = []
    for _ in range(rounds):
        dist.barrier()
        start, bytes_before = time.perf_counter(), _loopback()
        found = way(num_tokens, parts, outer)
        dist.barrier()
        seconds.append(time.perf_counter() - start)
        sent = _loopback() - bytes_before
    return {"seconds": sorted(seconds)[rounds // 2], "sent": sent / size, "peak": _memory("VmHWM") - before}, found


def _memory(field: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _loopback() -> int:
    """Bytes that the loopback device has sent; ranks of one machine speak over it."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[9]) for line in lines if line.strip().startswith("lo:"))


def _gap(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


def _rank(rank: int, size: int, store: str, lengths: Sequence[int], rounds: int) -> None:
    torch.set_num_threads(max(1, 2 // size))
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    answer: dict[str, Any] = {"public interface": public_interface()}
    for way in WAYS.values():
        measured(way, 256, 1)
    for num_tokens in lengths:
        rows, first = {}, None
        for name, way in WAYS.items():
            row, found = measured(way, num_tokens, rounds if num_tokens <= 8192 else 1)
            first = found if first is None else first
            everyone: list[dict[str, Any]] = [{}] * size
            dist.all_gather_object(everyone, {**row, "gap": _gap(found, first)})
            rows[name] = {
                "seconds": round(max(r["seconds"] for r in everyone), 4),
                "sent_megabytes": round(row["sent"] / 1e6, 2),
                "peak_megabytes": [round(r["peak"] / 1e6, 1) for r in everyone],
                "largest_gap_to_ring": max(r["gap"] for r in everyone),
            }
        answer[str(num_tokens)] = rows
    if rank == 0:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    dist.destroy_process_group()


def _main(size: int, lengths: Sequence[int], rounds: int) -> int:
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/store"
        ranks = [context.Process(target=_rank, args=(n, size, store, lengths, rounds)) for n in range(size)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
    return int(any(process.exitcode for process in ranks))


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])))
