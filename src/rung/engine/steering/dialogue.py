"""Generation that pauses to be answered: sequences stop for a question, the others go on, and each continues exactly.

Continuous means this: whatever a sequence is told enters its context token by token through decode steps, by the same
kernels as the tokens it draws, at the positions after its last one; the draws that follow are numbered as if nothing
had come between. So a run that is paused, parked, answered an hour later among other neighbours, or sent back to its
prompt by a full cache has, bit for bit, the tokens and figures of one in which the answers were known beforehand
(`known`). A prompt that already contains all of it is another computation: prompts go in by other kernels, whose last
bits may differ. The price is a decode step per token told, shared with whoever else runs.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from rung.base.errors import DataError, ModelError, SettingsError
from rung.base.settings import Field, Settings
from rung.engine.batch import Batch
from rung.engine.engine import Engine
from rung.engine.jobs import Job
from rung.engine.lane import Lane
from rung.engine.steering.answers import Watcher, answer_ids
from rung.engine.steering.park import Parked
from rung.engine.steering.spikes import SpikeSettings
from rung.engine.steering.watch import Exchange, Limits, Reason, Watch
from rung.records.contracts import Completion, Request

__all__ = ["Dialogue", "DialogueSettings", "Listener", "Pause", "Reading"]


class DialogueSettings(Settings):
    """What sequences pause for, and how many wait how long."""

    clarify: int | None = Field(None, ge=0, description="the reserved token that pauses; none: no token does")
    spikes: SpikeSettings | None = Field(None, description="pause at spikes of entropy too; none: never")
    max_questions: int = Field(1, ge=0, description="questions that one sequence may ask")
    max_spikes: int = Field(4, ge=0, description="spikes at which one sequence may pause to be looked at")
    max_paused: int = Field(64, ge=1, description="sequences kept paused; one more goes on without an answer")
    max_seconds: float = Field(600.0, gt=0, description="after so long a paused one goes on without an answer")


@dataclass(frozen=True, slots=True)
class Reading:
    """One drawn token of request `id`, its number from 0, and two entropies in nats: of the unmodified model (None
    where the engine does not keep it) and of the distribution that the token was drawn from."""

    id: str
    step: int
    token: int
    entropy: float | None
    sampling_entropy: float


@dataclass(frozen=True, slots=True)
class Pause:
    """A sequence that waits. `text` is what it wrote since it was told something last (its question, if it asks one);
    `context_ids` is all that it has in view, prompt first; `num_drawn` the tokens drawn so far."""

    id: str
    reason: Reason
    text: str
    context_ids: tuple[int, ...]
    num_drawn: int
    request: Request


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A paused sequence, and when (on the dialogue's clock) it stops to wait."""

    parked: Parked
    pause: Pause
    deadline: float


Listener = Callable[[Reading], None]


class Dialogue:
    """Runs requests with one engine; between two `run` the engine is free for other work.

    Nothing is lost when a run is ended from outside (by an error, by memory that is short, by what `listen` raises):
    what was under way begins again with the next. Completions hold what was drawn; `exchanges` what was told and where.

    Args:
        engine: of a model that runs in the engine's cache.
        settings: what to pause for.
        listen: is called with a reading after every token drawn, each once.
        clock: seconds, only ever growing.

    Raises:
        SettingsError: a reserved token that the model does not have, or that ends its texts.
    """

    def __init__(
        self,
        engine: Engine,
        settings: DialogueSettings | None = None,
        *,
        listen: Listener | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._settings = engine, settings or DialogueSettings()
        self._listen, self._clock = listen, clock
        self._watcher = Watcher(engine.intake, self._settings.clarify, self._settings.spikes)
        self._places = itertools.count()
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._resumed: deque[Parked] = deque()
        self._running: dict[int, Job] = {}
        self._paused: dict[str, _Waiting] = {}
        self._num_read: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self.completions: dict[str, Completion] = {}
        self.unanswered: list[str] = []

    @property
    def paused(self) -> list[Pause]:
        """Those that wait, the longest first."""
        return [waiting.pause for waiting in self._paused.values()]

    @property
    def num_bytes(self) -> int:
        """Memory that paused sequences take beside the cache."""
        parked = [*self._resumed, *(waiting.parked for waiting in self._paused.values())]
        return sum(one.num_bytes for one in parked)

    def exchanges(self, id: str) -> tuple[Exchange, ...]:
        """What request `id` was told so far."""
        watch = self._jobs[id].watch
        assert watch is not None
        return tuple(watch.exchanges)

    def add(self, requests: Sequence[Request], known: Mapping[str, Sequence[Exchange]] | None = None) -> None:
        """Queue requests, all or none. `known` are answers given beforehand, by the requests' ids: these do not pause
        where they come to one.

        Raises:
            SettingsError, DataError: as `Engine.complete`; an id that was there before.
        """
        ids = [request.id for request in requests]
        if twice := [id for place, id in enumerate(ids) if id in self._jobs or id in ids[:place]]:
            raise DataError(f"the request id '{twice[0]}' is used twice", hint="give every request its own")
        for job in self._engine.intake.jobs(requests):
            watch = self._watch()
            watch.exchanges += (known or {}).get(job.request.id, ())
            job = replace(job, place=next(self._places), watch=watch)
            self._jobs[job.request.id] = job
            self._waiting.append(job)

    def run(self) -> list[Pause]:
        """Let everything go as far as it can; those that paused on the way, the first to pause first. `completions` has
        what ended.

        Raises:
            SettingsError: the model keeps a cache of its own.
            ModelError: the network's output is not finite.
        """
        self._expire()
        before = set(self._paused)
        while self._waiting or self._resumed:
            try:
                self._go()
            except ModelError:
                self._engine.release()  # the cache may hold values that are not finite
                raise
            except torch.OutOfMemoryError:
                if not self._engine.shrink():
                    raise
        return [waiting.pause for id, waiting in self._paused.items() if id not in before]

    def complete(self, requests: Sequence[Request], reply: Callable[[Pause], str | None]) -> list[Completion]:
        """One completion per request, in order; `reply` is asked at every pause (None: go on without an answer)."""
        self.add(requests)
        while self.run() or self._paused:
            for pause in self.paused:
                self.resume(pause.id, reply(pause))
        return [self.completions[request.id] for request in requests]

    def resume(self, id: str, answer: str | Sequence[int] | None) -> None:
        """Answer a paused sequence, as text or token ids; None lets it go on without. It moves with the next `run`.

        Raises:
            DataError: it does not wait, or the answer is empty, too long, or holds ids that it cannot.
            ModelError: weights were changed since it paused.
        """
        waiting = self._found(id)
        lane, clarify = waiting.parked.lane, self._settings.clarify
        ids = () if answer is None else answer_ids(self._engine.intake, lane, answer, clarify)
        if waiting.parked.stale:
            raise ModelError(
                f"the weights were changed while '{id}' was paused", hint="cancel it, and add the request again"
            )
        del self._paused[id]
        self._wake(waiting.parked, ids)

    def cancel(self, id: str) -> None:
        """Forget a request that is not done, between two runs: wherever it is, what is kept of it is given back.

        Raises:
            DataError: there is no such request.
        """
        if id in self.completions or id not in self._jobs:
            raise DataError(f"no request '{id}' is under way")
        place = self._jobs.pop(id).place
        self._paused.pop(id, None)
        self._waiting = deque(job for job in self._waiting if job.place != place)
        self._resumed = deque(parked for parked in self._resumed if parked.lane.job.place != place)

    def _found(self, id: str) -> _Waiting:
        if id not in self._paused:
            raise DataError(f"'{id}' does not wait for an answer", hint=f"waiting: {', '.join(self._paused) or 'none'}")
        return self._paused[id]

    def _watch(self) -> Watch:
        return self._watcher.watch(Limits(self._settings.max_questions, self._settings.max_spikes))

    def _expire(self) -> None:
        """Let those that waited too long go on."""
        now = self._clock()
        for id in [id for id, waiting in self._paused.items() if waiting.deadline <= now]:
            self.unanswered.append(id)
            self._wake(self._paused.pop(id).parked, ())

    def _wake(self, parked: Parked, ids: tuple[int, ...]) -> None:
        lane = parked.lane
        assert lane.watching is not None
        lane.watching.go_on(len(lane.token_ids), ids)
        self._resumed.append(parked)

    def _go(self) -> None:
        slots = self._engine.open(lambda place: False)
        if not isinstance(slots, Batch):
            raise SettingsError(
                "a model that keeps its own cache cannot pause", hint="use a model of one of rung's own families"
            )
        try:
            self._fill(slots)
            while slots.lanes:
                finished = slots.step()
                self._collect(slots, finished)
                self._fill(slots)
        finally:
            self._waiting.extendleft(reversed(self._running.values()))
            self._running.clear()

    def _fill(self, slots: Batch) -> None:
        """Those that were answered first, then new ones."""
        while self._resumed and len(slots.lanes) < slots.num_slots:
            parked = self._resumed.popleft()
            self._running[parked.lane.job.place] = parked.lane.job
            slots.take_in(parked)
        self._take_back(slots)
        jobs = [self._waiting.popleft() for _ in range(slots.room(len(self._waiting)))]
        self._running.update({job.place: job for job in jobs})
        slots.admit(jobs)
        self._take_back(slots)

    def _take_back(self, slots: Batch) -> None:
        self._waiting.extendleft(self._running.pop(job.place) for job in reversed(slots.taken_back()))

    def _collect(self, slots: Batch, finished: Sequence[Lane]) -> None:
        parked = slots.parked()
        for lane in finished:
            del self._running[lane.job.place]
            self.completions[lane.job.request.id] = lane.completion()
        for one in parked:
            del self._running[one.lane.job.place]
            self._keep(one)
        if self._listen is not None:
            for lane in (*slots.lanes, *(one.lane for one in parked), *finished):
                self._read(lane, self._listen)

    def _keep(self, parked: Parked) -> None:
        lane, settings = parked.lane, self._settings
        id = lane.job.request.id
        if len(self._paused) >= settings.max_paused:
            self.unanswered.append(id)
            self._wake(parked, ())
            return
        self._paused[id] = _Waiting(parked, self._pause(lane, id), self._clock() + settings.max_seconds)

    def _pause(self, lane: Lane, id: str) -> Pause:
        watching, text = lane.watching, lane.shown()
        assert watching is not None
        assert watching.paused is not None
        start, self._written[id] = self._written.get(id, 0), len(text)
        context_ids = (*lane.job.prompt_ids, *watching.context)
        return Pause(id, watching.paused, text[start:], context_ids, len(lane.token_ids), lane.job.request)

    def _read(self, lane: Lane, listen: Listener) -> None:
        """Tell what was drawn since the last time; one that began again is silent until it is as far as before."""
        id, watching = lane.job.request.id, lane.watching
        assert watching is not None
        for step in range(self._num_read.get(id, 0), len(lane.token_ids)):
            raw = lane.entropies[step] if lane.entropies else None
            self._num_read[id] = step + 1
            listen(Reading(id, step, lane.token_ids[step], raw, watching.sampling_entropies[step]))
