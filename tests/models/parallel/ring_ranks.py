"""What the tests of the ring run in each process: cases against full attention, on rings of 1, 2 and 4 of the ranks.

`python ring_ranks.py SIZE STORE` imports once, forks the ranks and prints one JSON object: of each rank what it found.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from rung.models.layers.attend import PackedAttend
from rung.models.parallel.circle import Circle, Pending, Timeline
from rung.models.parallel.cut import Cut
from rung.models.parallel.ring import RingAttend

LONG = [515]
PACKED = [37, 3, 260, 1, 90, 61, 2, 130]
SCALE = 0.3


@dataclass(frozen=True)
class Case:
    """One comparison."""

    lengths: Sequence[int]
    order: str = "zigzag"
    window: int = 0
    heads: tuple[int, int] = (4, 4)
    rows: int = 1
    query_block: int = 0


CASES = {
    "uneven": Case(LONG),
    "grouped": Case(LONG, heads=(6, 2)),
    "odd heads": Case(LONG, heads=(9, 3)),
    "packed": Case(PACKED, heads=(6, 2)),
    "two rows": Case(PACKED, rows=2),
    "striped": Case(LONG, "striped", heads=(6, 2)),
    "striped, packed": Case(PACKED, "striped", heads=(6, 2)),
    "contiguous, packed": Case(PACKED, "contiguous", heads=(6, 2)),
    "window": Case(LONG, window=50, heads=(4, 1)),
    "window, packed, striped": Case(PACKED, "striped", window=50, heads=(4, 1)),
    "window, packed": Case(PACKED, window=50, heads=(4, 1)),
    "query blocks": Case(PACKED, heads=(6, 2), query_block=16),
    "fewer tokens than ranks": Case([2, 1]),
}


def tensors(case: Case) -> list[Tensor]:
    """Queries, keys, values and the gradient of the output, the same in every process."""
    draw = torch.Generator().manual_seed(0)
    queries, keys = case.heads
    shapes = [(case.rows, sum(case.lengths), heads, 8) for heads in (queries, keys, keys, queries)]
    return [torch.randn(shape, generator=draw) for shape in shapes]


def reference(case: Case) -> list[Tensor]:
    """Output and gradients of attention over whole rows."""
    *parts, outer = tensors(case)
    parts = [part.requires_grad_() for part in parts]
    seen = PackedAttend([case.lengths] * case.rows)(0, *parts, scale=SCALE, window=case.window)
    seen.backward(outer)
    return [seen.detach(), *(part.grad for part in parts)]


def ringed(case: Case, circle: Circle) -> tuple[list[Tensor], Tensor]:
    """Output and gradients of this rank's tokens, and which these are."""
    cut = Cut(case.lengths, circle.size, case.order, case.query_block)
    own = torch.tensor(cut.indices(circle.rank), dtype=torch.long)
    *parts, outer = (x[:, own] for x in tensors(case))
    parts = [part.requires_grad_() for part in parts]
    seen = RingAttend(cut, circle)(0, *parts, scale=SCALE, window=case.window)
    seen.backward(outer)
    return [seen.detach(), *(part.grad for part in parts)], own


def gap(case: Case, circle: Circle) -> float:
    """The largest difference of anything from the reference."""
    found, own = ringed(case, circle)
    gaps = [(a - b[:, own]).abs() for a, b in zip(found, reference(case), strict=True)]
    return max((float(g.max()) for g in gaps if g.numel()), default=0.0)


def logged(circle: Circle) -> dict[str, object]:
    """Who sent how much to whom in which round, and in which order things were done."""
    circle.timeline = Timeline()
    ringed(CASES["grouped"], circle)
    moments, circle.timeline = circle.timeline.moments, None
    return {
        "sends": [[m.way, m.round, m.sender, m.receiver, m.num_bytes] for m in moments if m.what == "post"],
        "order": [[m.way, m.round, m.what] for m in moments],
        "held": Cut(LONG, circle.size).num_held(circle.rank),
    }


class _Late:
    """A transfer that takes at least so long."""

    def __init__(self, pending: Pending, due: float) -> None:
        self.pending, self.due = pending, due

    def wait(self) -> None:
        """Not before it is due."""
        self.pending.wait()
        time.sleep(max(0.0, self.due - time.perf_counter()))


class SlowCircle(Circle):
    """Every transfer takes at least `delay` seconds from when it is posted."""

    delay = 0.4

    def post(self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor]) -> Sequence[Pending]:
        """As the circle, later."""
        due = time.perf_counter() + self.delay
        return [_Late(pending, due) for pending in super().post(outgoing, incoming)]


def delayed(group: dist.ProcessGroup) -> float:
    """Seconds of a forward pass whose blocks take as long to compute as to travel."""
    circle = SlowCircle(group)
    cut = Cut(LONG, circle.size)
    honest, delay = cut.pieces, SlowCircle.delay
    cut.pieces = lambda *asked: (time.sleep(delay), honest(*asked))[1]  # type: ignore[method-assign]
    *parts, _ = (x[:, cut.indices(circle.rank)] for x in tensors(CASES["uneven"]))
    dist.barrier(group)
    start = time.perf_counter()
    RingAttend(cut, circle)(0, *parts, scale=SCALE, window=0)
    return time.perf_counter() - start


def kept(circle: Circle) -> list[int]:
    """Bytes kept for backward by the ring, and the largest of another rank's among them (none may be)."""
    sizes: list[int] = []
    cut = Cut(LONG, circle.size)
    *parts, _ = (x[:, cut.indices(circle.rank)].requires_grad_() for x in tensors(CASES["grouped"]))

    def keep(x: Tensor) -> Tensor:
        """Count it."""
        sizes.append(x.numel() * x.element_size())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        RingAttend(cut, circle)(0, *parts, scale=SCALE, window=0)
    return sizes


def main(rank: int, size: int, store: str) -> None:
    """Every case on every ring that this rank is part of."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    groups = {n: dist.new_group(list(range(n))) for n in (1, 2, 4) if n <= size}
    found: dict[str, object] = {}
    for n, group in groups.items():
        if rank < n:
            circle = Circle(group)
            found[str(n)] = {name: gap(case, circle) for name, case in CASES.items()}
            found[f"log {n}"], found[f"kept {n}"] = logged(circle), kept(circle)
    # once more on the first ring: going over to another size and back leaves nothing behind
    if rank < 2:
        found["again"] = gap(CASES["packed"], Circle(groups[2]))
    found["delayed"] = delayed(groups[size])
    everyone: list[dict[str, object]] = [{}] * size
    dist.all_gather_object(everyone, found)
    if rank == 0:
        sys.stdout.write(json.dumps(everyone) + "\n")
        sys.stdout.flush()
    dist.destroy_process_group()


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    num_ranks = int(sys.argv[1])
    ranks = [context.Process(target=main, args=(rank, num_ranks, sys.argv[2])) for rank in range(num_ranks)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    sys.exit(any(one.exitcode for one in ranks))
