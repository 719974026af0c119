"""The engine while it runs: requests come in from other threads between two steps, and text goes out after each.

One thread owns the model. Every answer is the one that `Engine.complete` gives for the same request, whatever else is
running and whenever it came.
"""

from __future__ import annotations

import gc
import itertools
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import torch

from rung.base.errors import ModelError, RungError
from rung.base.events import Events
from rung.base.settings import Field, Settings
from rung.engine.batch import Batch
from rung.engine.engine import Engine, Memory
from rung.engine.jobs import Job
from rung.engine.score import Pair
from rung.engine.tickets import Expired, Figures, News, QueueFull, Stopping, Ticket
from rung.engine.whole import Whole
from rung.records.contracts import Request, Scored

__all__ = ["Online", "OnlineSettings"]


class OnlineSettings(Settings):
    """How much may wait."""

    max_waiting: int = Field(256, ge=0, description="sequences that wait for a slot; more are refused")


class Online:
    """Serves requests with one engine.

    Args:
        open_engine: loads the model; called at once, and again when a request comes after `release`.
        settings: how much may wait.
        events: is told of loads, lack of memory and defects.

    Raises:
        RungError: what `open_engine` raises.
    """

    def __init__(
        self, open_engine: Callable[[], Engine], settings: OnlineSettings | None = None, events: Events | None = None
    ) -> None:
        self._open_engine, self._events = open_engine, events or Events()
        self._settings = settings or OnlineSettings()
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._asked: deque[tuple[Future[list[Scored]], Sequence[Pair]]] = deque()
        self._releases: list[Future[float]] = []
        self._running: dict[int, Ticket] = {}
        self._places = itertools.count()
        self._stopping = self._given_up = False
        self.num_given_up = 0
        self._engine: Engine | None = None
        self._slots: Batch | Whole | None = None
        self._figures = Figures()
        engine = self._there()
        self.intake, self.able = engine.intake, engine.capabilities()
        self._device = engine.memory().device
        self.most = engine.settings.num_slots + self._settings.max_waiting
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    @property
    def stopping(self) -> bool:
        """Whether new requests are refused."""
        return self._stopping

    @property
    def alive(self) -> bool:
        """Whether the thread that serves runs."""
        return self._thread.is_alive()

    @property
    def figures(self) -> Figures:
        """Counts and state; to be read from any thread."""
        engine = self._engine
        memory = engine.memory() if engine is not None else Memory(self._device, 0, 0)
        num_waiting = len(self._waiting) + len(self._asked)
        return replace(self._figures, num_running=len(self._running), num_waiting=num_waiting, memory=memory)

    def submit(
        self, requests: Sequence[Request], listen: Callable[[int, News], None], *, seconds: float, stream: bool = True
    ) -> list[Ticket]:
        """Queue all requests or none. `listen(number, news)` is told about request `number`, by the engine's thread.

        Args:
            requests: as for `Engine.complete`.
            listen: must not block.
            seconds: after this long a request ends with `Expired`.
            stream: False tells only the end.

        Raises:
            SettingsError, DataError: a request that cannot be done.
            QueueFull: too many wait already.
            Stopping: after `close`.
        """
        jobs, deadline = self.intake.jobs(requests), time.monotonic() + seconds
        tickets = [
            Ticket(replace(job, place=next(self._places)), partial(listen, job.place), stream, deadline) for job in jobs
        ]
        with self._changed:
            self._check_room(len(tickets))
            self._waiting.extend(tickets)
            self._changed.notify()
        return tickets

    def score(self, pairs: Sequence[Pair]) -> Future[list[Scored]]:
        """Log-probabilities of continuations, computed between two steps.

        Raises:
            QueueFull: too many wait already.
            Stopping: after `close`.
        """
        answer: Future[list[Scored]] = Future()
        with self._changed:
            self._check_room(1)
            self._asked.append((answer, pairs))
            self._changed.notify()
        return answer

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Free their slots before the next step; they are told nothing more."""
        with self._changed:
            for ticket in tickets:
                ticket.cancelled = True
            self._changed.notify()

    def release(self) -> Future[float]:
        """Unload the weights once nothing runs; what waits loads them again. The result is the seconds it took."""
        answer: Future[float] = Future()
        with self._changed:
            self._releases.append(answer)
            self._changed.notify()
        return answer

    def refuse(self) -> None:
        """Take no new requests from now on; those that are here go on."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def close(self, seconds: float) -> int:
        """Refuse new requests, let the others end within `seconds`, give up the rest; returns how many sequences that
        were, which `num_given_up` keeps."""
        self.refuse()
        if self.alive:
            self._thread.join(seconds)
        if self._given_up:
            return self.num_given_up
        left = (*self._running.values(), *self._waiting)
        self.num_given_up = sum(not ticket.gone for ticket in left) + len(self._asked)
        with self._changed:
            self._given_up = True
            self._changed.notify()
        if self.alive:
            self._thread.join()
        self._unload()
        return self.num_given_up

    def _check_room(self, num_new: int) -> None:
        if self._stopping:
            raise Stopping("the server is stopping", hint="send the request to another one")
        num_waiting = len(self._waiting) + len(self._asked)
        num_free = max(0, self._figures.num_slots - len(self._running))
        if num_waiting + num_new > self._settings.max_waiting + num_free:
            raise QueueFull(f"{num_waiting} sequences wait already, and {num_new} more are too many", hint="try later")

    def _work(self) -> None:
        while self._rest():
            self._sweep()
            problem = self._try_advance()
            if problem is not None:
                self._after(problem)
        self._give_up()

    def _rest(self) -> bool:
        """Wait for something to do; False when there is nothing more to come."""
        with self._changed:
            while not self._given_up:
                if self._waiting or self._asked or self._releases or self._running:
                    return True
                if self._stopping:
                    return False
                self._changed.wait()
            return False

    def _sweep(self) -> None:
        """Let go of what nobody waits for any more."""
        with self._changed:
            left = [ticket for ticket in self._waiting if ticket.gone]
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.gone) if left else self._waiting
        for place, ticket in list(self._running.items()):
            if ticket.gone:
                left.append(self._running.pop(place))
                if self._slots is not None:
                    self._slots.cancel(place)
        for ticket in left:
            if not ticket.cancelled:
                ticket.listen(News(error=Expired("the request did not end in time", hint="ask for fewer tokens")))

    def _try_advance(self) -> Exception | None:
        try:
            self._answer_asked()
            self._advance()
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are still to be served
            if not isinstance(error, (RungError, torch.OutOfMemoryError)):
                self._events.log("a defect of the engine", level="error", trace=traceback.format_exc())
            # its frames would keep the old cache in memory
            return error.with_traceback(None)
        return None

    def _answer_asked(self) -> None:
        for _ in range(len(self._asked)):  # those that come meanwhile let a step go first
            with self._changed:
                answer, pairs = self._asked.popleft()
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(self._there().score_pairs(pairs))
                except Exception as error:
                    answer.set_exception(_named(error))
                    if isinstance(error, torch.OutOfMemoryError):
                        raise

    def _advance(self) -> None:
        """Admit, step, tell."""
        if self._releases and not self._running:
            self._release()
        if not (self._running or self._waiting):
            return
        engine = self._there()
        if self._slots is None:
            self._slots = engine.open(self._is_gone)
        slots = self._slots
        slots.admit(self._arrivals(slots))
        start, num_running = time.monotonic(), len(slots.lanes)
        finished = slots.step() if slots.lanes else []
        for lane in (*slots.lanes, *finished):
            self._running[lane.job.place].tell(lane)
        for lane in finished:
            del self._running[lane.job.place]
        self._take_back(slots)
        self._count(slots, num_running, start)

    def _take_back(self, slots: Batch | Whole) -> None:
        """Sequences that a full cache sent back wait again, before everybody else."""
        tickets = [self._running.pop(job.place) for job in slots.taken_back()]
        with self._changed:
            self._waiting.extendleft(reversed(tickets))
        self._figures = replace(self._figures, num_restarts=self._figures.num_restarts + len(tickets))

    def _arrivals(self, slots: Batch | Whole) -> list[Job]:
        with self._changed:
            num_new = 0 if self._releases else slots.room(len(self._waiting))
            arrivals = [self._waiting.popleft() for _ in range(num_new)]
            self._running.update({ticket.job.place: ticket for ticket in arrivals})
        num_prompt = self._figures.num_prompt_tokens + sum(len(ticket.job.prompt_ids) for ticket in arrivals)
        self._figures = replace(self._figures, num_prompt_tokens=num_prompt)
        return [ticket.job for ticket in arrivals]

    def _count(self, slots: Batch | Whole, num_new: int, start: float) -> None:
        before = self._figures
        self._figures = replace(
            before,
            num_slots=slots.num_slots,
            num_steps=before.num_steps + 1,
            num_tokens=before.num_tokens + num_new,
            busy_seconds=before.busy_seconds + time.monotonic() - start,
        )

    def _is_gone(self, place: int) -> bool:
        return self._given_up or self._running[place].gone

    def _after(self, problem: Exception) -> None:
        """What was running starts again in fewer slots where memory was short, and fails otherwise."""
        self._slots = None
        tickets = [*self._running.values()]
        self._running.clear()
        if isinstance(problem, torch.OutOfMemoryError) and self._engine is not None and self._engine.shrink():
            with self._changed:
                self._waiting.extendleft(reversed(tickets))
            self._figures = replace(self._figures, num_restarts=self._figures.num_restarts + len(tickets))
            self._events.log("sequences start again from their prompts", level="warning", count=len(tickets))
            return
        self._events.log("requests failed", level="error", count=len(tickets), cause=_named(problem).message)
        if self._engine is None:
            with self._changed:
                tickets += self._waiting
                self._waiting.clear()
        else:
            self._engine.release()
        for ticket in tickets:
            ticket.listen(News(error=_named(problem)))

    def _there(self) -> Engine:
        """The engine, loaded if need be."""
        if self._engine is None:
            start = time.monotonic()
            self._engine = self._open_engine()
            seconds, num_loads = time.monotonic() - start, self._figures.num_loads + 1
            self._figures = replace(
                self._figures,
                num_slots=self._engine.settings.num_slots,
                num_loads=num_loads,
                load_seconds=seconds,
                loaded=True,
            )
            self._events.log("the model is loaded", seconds=round(seconds, 3), load=num_loads)
        return self._engine

    def _release(self) -> None:
        start = time.monotonic()
        self._unload()
        self._events.log("the model is released", seconds=round(time.monotonic() - start, 3))
        with self._changed:
            answers, self._releases = self._releases, []
        for answer in answers:
            if answer.set_running_or_notify_cancel():
                answer.set_result(time.monotonic() - start)

    def _unload(self) -> None:
        self._engine = self._slots = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._figures = replace(self._figures, loaded=False)

    def _give_up(self) -> None:
        """Tell whoever still waits that it is over."""
        over = Stopping("the server stopped before this request ended", hint="send it again")
        for ticket in (*self._running.values(), *self._waiting):
            ticket.listen(News(error=over))
        for score, _ in self._asked:
            if score.set_running_or_notify_cancel():
                score.set_exception(over)
        for release in self._releases:
            if release.set_running_or_notify_cancel():
                release.set_exception(over)
        self._running.clear()
        self._waiting.clear()


def _named(error: Exception) -> RungError:
    """The error itself when it has a name; else one that does not repeat its words, which may be anything."""
    if isinstance(error, RungError):
        return error
    short = isinstance(error, torch.OutOfMemoryError)
    return ModelError("there is not enough memory" if short else f"a defect of the engine ({type(error).__name__})")
