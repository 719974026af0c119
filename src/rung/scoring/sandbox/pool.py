"""Workers in slots: one program at a time in each, replaced after so many and after every failure of their own."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from rung.scoring.sandbox.contract import Guest, GuestGone, Limits, Outcome, SandboxRefused, Verdict
from rung.scoring.sandbox.running import Conversation, Running
from rung.scoring.sandbox.settings import SandboxSettings
from rung.scoring.sandbox.worker import Broken, Worker

__all__ = ["Pool"]

# An infrastructure failure is tried again once, in a fresh worker.
_ATTEMPTS = 2


@dataclass
class _Slot:
    number: int
    worker: Worker | None = None

    def empty(self) -> None:
        """End its worker."""
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.kill()


class Pool:
    """A sandbox whose workers `hire` starts (see `contract.Sandbox`).

    Args:
        rung: its name, for the outcomes.
        hire: starts the worker of a slot; raises Broken.
        settings: of the sandbox.
        repository: whether programs may start others.
        jobs_per_worker: programs after which a worker is replaced; none: as the settings say.
    """

    def __init__(
        self,
        rung: str,
        hire: Callable[[int], Worker],
        settings: SandboxSettings,
        *,
        repository: bool,
        jobs_per_worker: int | None = None,
    ) -> None:
        self.rung, self._hire, self._settings, self._repository = rung, hire, settings, repository
        self._jobs_per_worker = jobs_per_worker or settings.jobs_per_worker
        self._slots = [_Slot(number) for number in range(settings.slots or _num_cores())]
        # Last in, first out: what is warm is used again.
        self._free: queue.LifoQueue[_Slot] = queue.LifoQueue()
        for slot in reversed(self._slots):
            self._free.put(slot)
        self._closing = threading.Event()

    def run(self, source: str, limits: Limits = Limits(), stdin: bytes = b"") -> Outcome:  # noqa: B008
        """See `contract.Sandbox`."""
        outcome = self._failed("")
        for _ in range(_ATTEMPTS):
            slot = self._take(limits)
            if slot is None:
                return self._failed(f"no slot was free for {self._settings.wait_seconds:g} seconds")
            outcome = self._run_in(slot, source, limits, stdin)
            self._give_back(slot, outcome)
            if outcome.verdict != Verdict.INFRASTRUCTURE:
                break
        return outcome

    def open(self, source: str, limits: Limits = Limits()) -> Guest:  # noqa: B008
        """See `contract.Sandbox`. It holds its slot till `end`."""
        problem = ""
        for _ in range(_ATTEMPTS):
            slot = self._take(limits)
            if slot is None:
                problem = f"no slot was free for {self._settings.wait_seconds:g} seconds"
                break
            try:
                return self._converse(slot, source, limits)
            except Broken as error:
                problem = str(error)
                self._give_back(slot, self._failed(problem))
        return _Stillborn(self._failed(problem))

    def close(self) -> None:
        """See `contract.Sandbox`."""
        self._closing.set()
        for slot in self._slots:
            slot.empty()

    def _take(self, limits: Limits) -> _Slot | None:
        if self._closing.is_set():
            raise SandboxRefused("the sandbox was closed", place=self.rung)
        if limits.processes > 1 and not self._repository:
            raise SandboxRefused(
                f"programs that start programs (processes = {limits.processes}) cannot be held here",
                place=self.rung,
                hint="they need the rung 'namespaces'",
            )
        try:
            return self._free.get(timeout=self._settings.wait_seconds)
        except queue.Empty:
            return None

    def _worker(self, slot: _Slot) -> Worker:
        if slot.worker is None:
            slot.worker = self._hire(slot.number)
        return slot.worker

    def _run_in(self, slot: _Slot, source: str, limits: Limits, stdin: bytes) -> Outcome:
        try:
            return Running(self._worker(slot), source, limits, stdin).finish(self.rung)
        except Broken as error:
            return self._failed(str(error))

    def _converse(self, slot: _Slot, source: str, limits: Limits) -> Guest:
        worker = self._worker(slot)

        def begin(descriptors: tuple[int, ...]) -> Running:
            """Start it with its two more descriptors."""
            return Running(worker, source, limits, also=descriptors)

        def end(running: Running) -> Outcome:
            """How it went; the slot is free again."""
            outcome = running.finish(self.rung)
            self._give_back(slot, outcome)
            return outcome

        return Conversation(begin, end)

    def _give_back(self, slot: _Slot, outcome: Outcome) -> None:
        spent = slot.worker is not None and slot.worker.num_jobs >= self._jobs_per_worker
        if spent or outcome.verdict == Verdict.INFRASTRUCTURE or self._closing.is_set():
            slot.empty()
        self._free.put(slot)

    def _failed(self, why: str) -> Outcome:
        return Outcome(Verdict.INFRASTRUCTURE, b"", b"", 0.0, 0.0, None, why, self.rung)


class _Stillborn:
    """A guest that never began, by no fault of its own."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def send(self, data: bytes) -> None:
        """Gone."""
        raise GuestGone(self._outcome.detail)

    def receive(self, num_bytes: int, wall_seconds: float) -> bytes:
        """Gone."""
        raise GuestGone(self._outcome.detail)

    def end(self) -> Outcome:
        """The infrastructure verdict."""
        return self._outcome


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
