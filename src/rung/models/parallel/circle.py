"""The ranks of a context dimension as a circle: each passes tensors to the next while it computes.

Every transfer is posted before the work that it shall hide behind, and waited for after; `Timeline` keeps when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rung.base.errors import WorkerLost

__all__ = ["Circle", "Clock", "Moment", "Pending", "Round", "Timeline"]

T = TypeVar("T")
What = Literal["post", "compute", "wait"]


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that a rank did, in seconds of its own clock. `num_bytes` were sent, for a post; from rank
    `sender` to rank `receiver` of the circle."""

    layer: int
    way: Literal["forward", "backward"]
    round: int
    what: What
    start: float
    end: float
    num_bytes: int = 0
    sender: int = 0
    receiver: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    """The sum of a round over layers: seconds and bytes."""

    way: str
    round: int
    num_bytes: int
    posting: float
    computing: float
    waiting: float


@dataclass(slots=True)
class Timeline:
    """What a rank did and when, as long as it is attached to a `Circle`."""

    moments: list[Moment] = field(default_factory=list)

    def rounds(self) -> list[Round]:
        """The profile: bytes sent, and seconds of posting, computing and waiting, by way and round."""
        keys = sorted({(m.way, m.round) for m in self.moments}, key=lambda key: (key[0] == "backward", key[1]))
        return [self._round(way, number) for way, number in keys]

    def table(self) -> str:
        """The profile as text."""
        lines = ["way       round        bytes  posting s  computing s  waiting s"]
        lines += [
            f"{r.way:<9} {r.round:>5} {r.num_bytes:>12} {r.posting:>10.4f} {r.computing:>12.4f} {r.waiting:>10.4f}"
            for r in self.rounds()
        ]
        return "\n".join(lines)

    def _round(self, way: str, number: int) -> Round:
        own = [m for m in self.moments if (m.way, m.round) == (way, number)]
        spent = {what: sum(m.end - m.start for m in own if m.what == what) for what in ("post", "compute", "wait")}
        num_bytes = sum(m.num_bytes for m in own)
        return Round(way, number, num_bytes, spent["post"], spent["compute"], spent["wait"])


class Pending(Protocol):
    """A transfer under way."""

    def wait(self) -> object:
        """Return when it is done."""


class Circle:
    """The ranks of a process group, each sending to the next and receiving from the one before.

    Args:
        group: of the context dimension; None: this process alone.
        timeline: what is done is written here when given.
    """

    def __init__(self, group: dist.ProcessGroup | None, timeline: Timeline | None = None) -> None:
        self.group, self.timeline = group, timeline
        self.size = dist.get_world_size(group) if group is not None else 1
        self.rank = dist.get_rank(group) if group is not None else 0

    @property
    def next(self) -> int:
        """The rank that is sent to."""
        return (self.rank + 1) % self.size

    @property
    def previous(self) -> int:
        """The rank that is received from."""
        return (self.rank - 1) % self.size

    def post(self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor]) -> Sequence[Pending]:
        """Start to send to the next rank and to receive from the one before; every rank posts the same kinds.

        Raises:
            WorkerLost: a neighbour is gone.
        """
        sends = [dist.P2POp(dist.isend, x, group=self.group, group_peer=self.next) for x in outgoing if x.numel()]
        takes = [dist.P2POp(dist.irecv, x, group=self.group, group_peer=self.previous) for x in incoming if x.numel()]
        return _or_lost(partial(dist.batch_isend_irecv, [*sends, *takes])) if sends or takes else []

    def wait(self, pending: Sequence[Pending]) -> None:
        """Until all of these are done.

        Raises:
            WorkerLost: a neighbour is gone, or silent for longer than the group's timeout.
        """
        for work in pending:
            _or_lost(work.wait)

    def note(self, moment: Moment) -> None:
        """Write it to the timeline, if there is one."""
        if self.timeline is not None:
            self.timeline.moments.append(moment)


class Clock:
    """Times the rounds of one pass over one layer for the circle's timeline."""

    def __init__(self, circle: Circle, layer: int, way: Literal["forward", "backward"], device: torch.device) -> None:
        self._circle, self._layer, self._way, self._device = circle, layer, way, device

    def timed(self, number: int, what: What, action: Callable[[], T], num_bytes: int = 0) -> T:
        """Do it, and note when; without a timeline just do it."""
        circle = self._circle
        if circle.timeline is None:
            return action()
        start = self._now()
        done = action()
        ends = (circle.rank, circle.next) if what == "post" else (circle.rank, circle.rank)
        circle.note(Moment(self._layer, self._way, number, what, start, self._now(), num_bytes, *ends))
        return done

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _or_lost(action: Callable[[], T]) -> T:
    try:
        return action()
    except RuntimeError as error:
        raise WorkerLost(
            f"a neighbour in the ring is gone or silent: {str(error).splitlines()[0][:200]}",
            place="devices.context",
            hint="the same command goes on from the last checkpoint, on this or another number of ranks",
        ) from error
