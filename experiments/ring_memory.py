"""A context that one process cannot train on under a memory limit and four can; and what hides behind what.

One training step (loss, gradients, update) on one document of 32,768 tokens with a small Llama, first by one process,
then by a ring of four. The limit (RLIMIT_DATA, of each process alone) lies between the two peaks: under it the plain
step fails for want of memory and the ring does the same step with the same loss. Then one attention layer of that
length: what a rank keeps for backward, and the timeline of its rounds, beside the same transfers with nothing to hide
behind. Writes ring_memory.json and ring_memory.md.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rung.base.errors import WorkerLost
from rung.base.files import write_json, write_text
from rung.models.families.llama import Llama
from rung.models.layers.attend import PackedAttend
from rung.models.network import Attend
from rung.models.parallel.circle import Circle, Timeline
from rung.models.parallel.cut import Cut
from rung.models.parallel.laid_out import laid_out
from rung.models.parallel.layout import Layout
from rung.models.parallel.ring import RingAttend
from rung.records.chat.frame import Rendered
from rung.records.packing import Example, pack
from rung.train.adapters import trainable
from rung.train.objectives.cross_entropy import CrossEntropy
from rung.train.optim.adamw import AdamW
from rung.train.step import train_step

__all__ = ["page", "run"]

NUM_RANKS, NUM_TOKENS, QUICK_TOKENS = 4, 32768, 12288
SHAPE = {
    "vocabulary": 256, "width": 128, "inner_width": 384, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1,
    "head_width": 64, "max_context": NUM_TOKENS, "tied_head": True,
}  # fmt: skip
SCALE = SHAPE["head_width"] ** -0.5


def run(results_folder: Path, quick: bool = False) -> None:
    """Both arms without a limit, then both under one between their peaks."""
    num_tokens = QUICK_TOKENS if quick else NUM_TOKENS
    free = {size: _job(size, num_tokens, 0.0) for size in (1, NUM_RANKS)}
    peaks = {size: max(rank["peak_megabytes"] for rank in ranks) for size, ranks in free.items()}
    limit = round((peaks[1] * peaks[NUM_RANKS]) ** 0.5)
    limited = {size: _job(size, num_tokens, limit) for size in (1, NUM_RANKS)}
    result = {
        "num_tokens": num_tokens,
        "shape": SHAPE,
        "limit_megabytes": limit,
        "without_limit": {str(size): ranks for size, ranks in free.items()},
        "under_limit": {str(size): ranks for size, ranks in limited.items()},
    }
    sys.stdout.write(page(result))
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "ring_memory.json", result)
    write_text(results_folder / "ring_memory.md", page(result))


def _job(size: int, num_tokens: int, limit: float) -> list[dict[str, Any]]:
    """What each of so many processes says, `outcome` first of all."""
    command = [sys.executable, "-m", "experiments.ring_memory", str(size), str(num_tokens), str(limit)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, 2 // size))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{size} processes failed:\n{done.stderr[-3000:]}")
    answer: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _rank(rank: int, size: int, num_tokens: int, limit: float, folder: str) -> None:
    """One process: the step, and when memory is not limited also the layer alone."""
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    network = Llama.build(Llama.Settings(**SHAPE), seed=0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    if limit:
        most = _memory("VmData") + int(limit * 1e6)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        found = _step(network, size, num_tokens)
    except (RuntimeError, MemoryError) as error:
        if "allocate" not in str(error) and not isinstance(error, MemoryError):
            raise
        found = {"outcome": "out of memory"}
    except WorkerLost:
        found = {"outcome": "another rank was lost"}
    found["peak_megabytes"] = round((_memory("VmHWM") - before) / 1e6, 1)
    if not limit:
        found |= _layer(size, num_tokens)
    (Path(folder) / f"rank-{rank}.json").write_text(json.dumps(found))
    if size > 1:
        dist.destroy_process_group()


def _step(network: Llama, size: int, num_tokens: int) -> dict[str, Any]:
    tokens = tuple(
        torch.randint(0, SHAPE["vocabulary"], (num_tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    )
    rows = pack([Example("long", Rendered(tokens, (False, *([True] * (num_tokens - 1))), 1))], num_tokens)
    objective = CrossEntropy(CrossEntropy.Settings())
    start = time.perf_counter()
    with laid_out(network, Layout(context=size)):
        optimizer = AdamW(AdamW.Settings()).build(trainable(network))
        report = train_step(network, optimizer, rows, objective, learning_rate=1e-3, clip=1.0)
    seconds = time.perf_counter() - start
    return {"outcome": "done", "loss": report.loss, "gradient_norm": report.grad_norm, "seconds": round(seconds, 1)}


def _layer(size: int, num_tokens: int) -> dict[str, Any]:
    """One attention layer: what is kept for backward, and what happens when."""
    gc.collect()
    circle = Circle(dist.group.WORLD, Timeline()) if size > 1 else Circle(None)
    cut = Cut([num_tokens], size)
    shapes = [
        (1, cut.num_held(circle.rank), SHAPE[heads], SHAPE["head_width"]) for heads in ("num_heads", "num_kv_heads")
    ]
    parts = [torch.randn(shape).requires_grad_() for shape in (shapes[0], shapes[1], shapes[1])]
    attend: Attend = RingAttend(cut, circle) if size > 1 else PackedAttend([[num_tokens]])
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        """Count it."""
        kept.append(x.numel() * x.element_size())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        seen = attend(0, *parts, scale=SCALE, window=0)
    found = {
        "kept_megabytes": round(sum(kept) / 1e6, 2),
        "own_keys_and_values_megabytes": round(2 * parts[1].numel() * 4 / 1e6, 2),
    }
    if circle.timeline is None:
        return found
    seen.backward(torch.ones_like(seen))
    return {**found, **_timeline(circle, circle.timeline, parts)}


def _timeline(circle: Circle, timeline: Timeline, parts: Sequence[Tensor]) -> dict[str, Any]:
    """What was noted, and how long a block takes to travel when nothing is computed."""
    start = timeline.moments[0].start
    moments = [
        {
            "way": m.way, "round": m.round, "what": m.what, "bytes": m.num_bytes,
            "start_ms": round(1e3 * (m.start - start), 2), "end_ms": round(1e3 * (m.end - start), 2),
        }
        for m in timeline.moments
    ]  # fmt: skip
    block = torch.stack((parts[1].detach(), parts[2].detach()))
    alone = []
    for _ in range(5):
        dist.barrier()
        began = time.perf_counter()
        circle.wait(circle.post([block], [torch.empty_like(block)]))
        alone.append(1e3 * (time.perf_counter() - began))
    return {"moments": moments, "transfer_alone_ms": round(sorted(alone)[2], 2)}


def _memory(field: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def page(result: Mapping[str, Any]) -> str:
    """The tables, and the timeline of rank 0."""
    lines = [
        f"One training step on one document of {result['num_tokens']} tokens; memory is the peak of a process above "
        "what it holds before the step.",
        "",
        f"| processes | peak without a limit (MB) | loss | under a limit of {result['limit_megabytes']} MB each "
        "| peak (MB) | loss |",
        "|---|---|---|---|---|---|",
    ]
    for size, ranks in result["without_limit"].items():
        limited = result["under_limit"][size]
        outcome = next((rank["outcome"] for rank in limited if rank["outcome"] != "done"), "done")
        loss = f"{limited[0]['loss']:.6f}" if outcome == "done" else "-"
        lines.append(f"| {size} | {_most(ranks)} | {ranks[0]['loss']:.6f} | {outcome} | {_most(limited)} | {loss} |")
    lines += ["", *_kept(result["without_limit"]), "", *_rounds(result["without_limit"])]
    return "\n".join(lines) + "\n"


def _most(ranks: Sequence[Mapping[str, Any]]) -> str:
    return f"{max(rank['peak_megabytes'] for rank in ranks):.0f}"


def _kept(free: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    lines = ["| processes | keys and values of a rank (MB) | kept for backward by a layer (MB) |", "|---|---|---|"]
    for size, ranks in free.items():
        own, kept = (max(rank[key] for rank in ranks) for key in ("own_keys_and_values_megabytes", "kept_megabytes"))
        lines.append(f"| {size} | {own} | {kept} |")
    return lines


def _rounds(free: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    first = free[str(NUM_RANKS)][0]
    lines = [
        f"Rank 0 of {NUM_RANKS}, one attention layer; a transfer of a block with nothing to hide behind takes "
        f"{first['transfer_alone_ms']} ms. Milliseconds from the start.",
        "",
        "| way | round | posted | computing | waiting | waited |",
        "|---|---|---|---|---|---|",
    ]
    at = {(m["way"], m["round"], m["what"]): m for m in first["moments"]}
    for way, number in dict.fromkeys((m["way"], m["round"]) for m in first["moments"]):
        post, compute, wait = (at.get((way, number, what)) for what in ("post", "compute", "wait"))
        spans = [f"{m['start_ms']} to {m['end_ms']}" if m else "-" for m in (compute, wait)]
        waited = f"{wait['end_ms'] - wait['start_ms']:.2f}" if wait else "-"
        lines.append(f"| {way} | {number} | {post['start_ms'] if post else '-'} | {spans[0]} | {spans[1]} | {waited} |")
    return lines


def _main(size: int, num_tokens: int, limit: float) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=_rank, args=(rank, size, num_tokens, limit, folder)) for rank in range(size)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        if any(rank.exitcode for rank in ranks):
            sys.exit(1)
        return [json.loads((Path(folder) / f"rank-{rank}.json").read_text()) for rank in range(size)]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))) + "\n")
