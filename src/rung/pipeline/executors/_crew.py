"""A crew of workers on the shards of one stage: hands out, listens, publishes, replaces who dies or hangs.

Nothing here knows what carries the messages: `local` hires processes, `ray` hires actors. Only this side touches the
stage's folder, its journal and its notes; a worker loses its open shard and nothing else.
"""

from __future__ import annotations

import queue
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rung.base.errors import BudgetSpent, ModelError, RungError, WorkerLost
from rung.base.settings import Field, Settings
from rung.pipeline.budget import Spend
from rung.pipeline.executors._in_turn import ABOUT_ALL
from rung.pipeline.executors._purse import Purse
from rung.pipeline.job import Job, Order, Report, spent_in
from rung.pipeline.sharding import together
from rung.pipeline.stage import Context, Outputs, Shards

__all__ = ["Crew", "CrewSettings", "Hand", "Hire", "Incoming"]

_LOOK_SECONDS = 0.1
# What two workers must agree on, or their shards were not made by the same thing.
_AGREED = ("model", "calibration")


class CrewSettings(Settings):
    """How many workers, and how long they are waited for."""

    workers: int = Field(1, ge=1, le=1024, description="processes that make shards at the same time")
    max_attempts: int = Field(2, ge=1, description="times that a shard may fail or lose its worker")
    hang_seconds: float = Field(600.0, gt=0, description="a worker without a sign of life for so long is replaced")
    start_seconds: float = Field(1800.0, gt=0, description="longest that a worker may take to load its model")
    stop_seconds: float = Field(30.0, ge=0, description="how long workers may take to stop before they are killed")


@dataclass(frozen=True)
class Incoming:
    """A report of a worker with the bytes of its shards (none when they lie in its folder); None: it is gone."""

    worker: int
    report: Report | None
    data: Mapping[str, bytes] = field(default_factory=dict)


class Hand(Protocol):
    """The run's end of one worker."""

    folder: Path

    def send(self, order: Order) -> None:
        """Send an order; to a worker that is gone it goes nowhere."""

    def kill(self) -> None:
        """End it now."""

    def ended(self) -> str:
        """How it ended; called after its last report, and returns when it is gone for good."""


# Called with a number that no living worker has (0 .. workers - 1: its device), its job and where its reports go.
Hire = Callable[[int, Job, "queue.Queue[Incoming]"], Hand]


@dataclass
class _Place:
    """A worker at work. `index` is its open shard."""

    hand: Hand
    heard_at: float
    ready: bool = False
    index: int | None = None
    before: Spend = field(default_factory=Spend)
    cause: str = ""
    dismissed: bool = False


class Crew:
    """Makes shards with workers.

    Args:
        hire: starts a worker.
        settings: of the executor.
        shards: what to make.
        context, outputs: of the stage.
    """

    def __init__(self, hire: Hire, settings: CrewSettings, shards: Shards, context: Context, outputs: Outputs) -> None:
        self._hire, self._settings, self._shards = hire, settings, shards
        self._context, self._outputs = context, outputs
        self._inbox: queue.Queue[Incoming] = queue.Queue()
        self._waiting = deque(shards.indices)
        self._places: dict[int, _Place] = {}
        self._purse = Purse(context.budget, settings.workers)
        self._dearest = shards.expected
        self._causes: dict[int, list[str]] = {}
        self._failures: dict[int, Exception] = {}
        self._noted: dict[tuple[str, str], Any] = {}
        self._refused: RungError | None = None
        self._num_lost_at_start = 0

    def run(self) -> None:
        """Until every shard is made or given up.

        Raises:
            BudgetSpent: a cap has no room for more; what could be finished within it is.
            Interrupted, StorageError, GateFailed: at once.
            ModelError: two workers run different models.
            RungError: shards were given up, the others are made.
        """
        shutil.rmtree(self._context.job.folder, ignore_errors=True)
        try:
            with self._context.budget.elsewhere():
                try:
                    self._work()
                finally:
                    self._dismiss()
        finally:
            shutil.rmtree(self._context.job.folder, ignore_errors=True)
        if self._failures:
            raise together(self._shards.output, self._failures, self._shards.num_shards)
        if self._refused is not None:
            raise self._refused

    def _work(self) -> None:
        while self._num_open() or (self._waiting and self._refused is None):
            self._staff()
            self._hand_out()
            self._hear(_LOOK_SECONDS)
            self._context.budget.poll()
            self._watch()

    def _num_open(self) -> int:
        return sum(place.index is not None for place in self._places.values())

    def _staff(self) -> None:
        """As many workers as there is work for."""
        wanted = min(self._settings.workers, len(self._waiting) + self._num_open())
        free = [number for number in range(self._settings.workers) if number not in self._places]
        for number in free[: max(0, wanted - len(self._places))]:
            job = self._context.job.model_copy(update={"folder": self._context.job.folder / f"{number:02d}"})
            self._purse.open(number)
            self._places[number] = _Place(self._hire(number, job, self._inbox), time.monotonic())

    def _hand_out(self) -> None:
        for number, place in self._places.items():
            if not place.ready or place.index is not None or place.dismissed:
                continue
            if not self._waiting or self._refused is not None:
                place.dismissed = True
                place.hand.send(Order(kind="stop"))
                continue
            caps = self._purse.lend(number, self._dearest)
            if caps is None and not self._num_open():
                self._context.budget.reserve_like(self._dearest)
            if caps is None:
                continue
            place.index, place.before = self._waiting.popleft(), self._purse.spent(number)
            place.heard_at = time.monotonic()
            place.hand.send(Order(kind="do", index=place.index, caps=caps))

    def _hear(self, seconds: float) -> None:
        """Everything that has come, or the first thing that comes within `seconds`."""
        try:
            incoming = self._inbox.get(timeout=seconds)
            while True:
                self._take(incoming)
                incoming = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _take(self, incoming: Incoming) -> None:
        number, report = incoming.worker, incoming.report
        if report is None:
            self._gone(number)
            return
        place = self._places[number]
        place.heard_at = time.monotonic()
        self._purse.report(number, spent_in(report.spend))
        if report.kind == "ready":
            place.ready, self._num_lost_at_start = True, 0
        elif report.kind == "note":
            self._note(report)
        elif report.kind == "event":
            self._context.events.relay(report.values, worker=number)
        elif report.kind == "more":
            self._answer(number, place, report)
        elif report.kind == "done":
            self._publish(number, place, incoming)
        elif report.kind == "failed":
            self._failed(number, place, report)

    def _note(self, report: Report) -> None:
        for key, value in report.values.items():
            known = self._noted.setdefault((report.section, key), value)
            if report.section in _AGREED and known != value:
                raise ModelError(
                    f"two workers do not run the same thing: {report.section} '{key}' is {known!r:.80} in one and "
                    f"{value!r:.80} in another",
                    place=self._context.name,
                    hint="the same model, libraries and kind of device everywhere",
                )
        self._outputs.note(report.section, report.values)

    def _answer(self, number: int, place: _Place, report: Report) -> None:
        caps = None if place.dismissed else self._purse.lend_more(number, spent_in(report.wanted))
        place.hand.send(Order(kind="caps", caps=caps))

    def _publish(self, number: int, place: _Place, incoming: Incoming) -> None:
        """Take over a whole shard; the one of the output that counts comes last, as the stage wrote it."""
        assert incoming.report is not None
        for made in incoming.report.shards:
            name = made.info.name
            source = incoming.data[name] if name in incoming.data else place.hand.folder / Path(name).name
            self._outputs.adopt(made.output, made.index, made.info, source)
        self._dearest = self._shards.dearest(self._dearest, self._purse.spent(number) - place.before)
        place.index = None
        self._purse.close(number)
        self._shards.after(incoming.report.index)
        self._shards.tell(self._context.events, self._outputs)

    def _failed(self, number: int, place: _Place, report: Report) -> None:
        assert report.problem is not None
        error, index = report.problem.error(), place.index
        place.index = None
        self._purse.close(number)
        if index is None:
            raise error
        if not isinstance(error, ABOUT_ALL):
            self._set_back(index, error, f"{report.problem.kind}: {report.problem.message}")
            return
        self._waiting.appendleft(index)
        if not isinstance(error, BudgetSpent):
            raise error
        self._refused = self._refused or _in_terms_of_the_run(error, self._context)

    def _gone(self, number: int) -> None:
        """A worker has ended; unasked, it takes its open shard with it."""
        place = self._places.pop(number)
        how = place.hand.ended()
        if place.index is not None:
            self._purse.silent(number, time.monotonic() - place.heard_at)
        self._purse.close(number)
        if place.index is not None:
            cause = f"{place.cause or how}"
            self._set_back(place.index, WorkerLost(f"the worker {cause}", place=self._context.name), cause)
        elif not place.ready and not place.dismissed:
            self._num_lost_at_start += 1
            if self._num_lost_at_start >= self._settings.max_attempts:
                raise WorkerLost(f"workers end before they begin: {place.cause or how}", place=self._context.name)

    def _set_back(self, index: int, error: RungError, cause: str) -> None:
        """Hand a shard out again, or give it up when that was tried often enough."""
        causes = self._causes.setdefault(index, [])
        causes.append(cause)
        again = len(causes) < self._settings.max_attempts
        self._context.events.log(
            f"shard {index} of '{self._shards.output}' failed ({cause}); "
            + ("it is handed out again" if again else "it is set aside"),
            level="warning" if again else "error",
            shard=index,
        )
        if again:
            self._waiting.appendleft(index)
        else:
            self._failures[index] = error
            self._outputs.quarantine(self._shards.output, index, causes)

    def _watch(self) -> None:
        """Kill who shows no sign of life; the end is heard like any other."""
        now = time.monotonic()
        for place in self._places.values():
            limit = self._settings.hang_seconds if place.ready else self._settings.start_seconds
            idle = place.ready and place.index is None
            if not idle and not place.cause and now - place.heard_at > limit:
                place.cause = f"gave no sign of life for {limit:g} s and was killed"
                place.hand.kill()

    def _dismiss(self) -> None:
        """Ask everybody to stop, wait a while for what they spent, and leave no process behind."""
        for place in self._places.values():
            place.hand.send(Order(kind="stop"))
            if not place.ready:
                place.hand.kill()
        deadline = time.monotonic() + self._settings.stop_seconds
        while self._places and time.monotonic() < deadline:
            self._listen_to_the_end(_LOOK_SECONDS)
        for place in self._places.values():
            place.hand.kill()
        while self._places:
            self._listen_to_the_end(_LOOK_SECONDS)

    def _listen_to_the_end(self, seconds: float) -> None:
        """Only what was spent counts now, and whether somebody is gone."""
        try:
            incoming = self._inbox.get(timeout=seconds)
        except queue.Empty:
            return
        if incoming.report is None:
            self._places.pop(incoming.worker).hand.ended()
        elif incoming.report.kind == "more":
            self._places[incoming.worker].hand.send(Order(kind="caps"))
        else:
            self._purse.report(incoming.worker, spent_in(incoming.report.spend))


def _in_terms_of_the_run(error: BudgetSpent, context: Context) -> BudgetSpent:
    """A worker only knows what it was lent."""
    name = error.place.rpartition(".")[2]
    cap, used = getattr(context.budget.settings, name), getattr(context.budget.total, name)
    message = f"the cap of {cap:g} {name} has no room for the next piece: {used:.6g} spent"
    return BudgetSpent(message, place=error.place, hint=error.hint)
