"""Grading in processes of its own: several at once, and none that a test on a wrong answer can hang or fill.

Each worker holds a sandbox. A test is the task's code, but what it does with an answer (looping over it, hashing it,
raising to its power) may never end; then the worker is killed and the solution has failed.
"""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rung.base.settings import Field, Settings
from rung.records.types import from_plain, to_plain
from rung.scoring.grading.grade import GradingSettings
from rung.scoring.grading.problem import Grade, Problem
from rung.scoring.sandbox.contract import SandboxRefused
from rung.scoring.sandbox.settings import SandboxSettings

__all__ = ["Graders", "WorkerSettings"]

_START_SECONDS = 120.0
_DEATHS = 2


class WorkerSettings(Settings):
    """The processes that grade."""

    num_workers: int = Field(2, ge=1, le=256, description="how many; as many as cores")
    sandbox: SandboxSettings = Field(SandboxSettings(slots=1), description="of each worker's own sandbox")
    opener: str = Field(
        "rung.scoring.grading._worker:open_sandbox", description="module:function that opens it from these settings"
    )
    test_seconds: float = Field(30.0, gt=0, description="clock time of the tests themselves, beyond the solution's")
    memory_bytes: int = Field(4 << 30, ge=256 << 20, description="address space of a worker")


class Graders:
    """A pool of workers, started when first needed. May be used from many threads; close it when done.

    Attributes:
        sandbox_record: the rung that holds solutions and its self-test, for manifests; empty before the first grade.
    """

    def __init__(self, settings: WorkerSettings | None = None, grading: GradingSettings | None = None) -> None:
        self._settings, self._grading = settings or WorkerSettings(), grading or GradingSettings()
        self._free: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        for _ in range(self._settings.num_workers):
            self._free.put(None)
        self.sandbox_record: Mapping[str, Any] = {}
        self._threads = ThreadPoolExecutor(self._settings.num_workers)
        self._lock = threading.Lock()
        self._open: set[_Worker] = set()

    def __enter__(self) -> Graders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def grade(self, jobs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        """One grade per (problem, solution), in order."""
        return list(self._threads.map(self._one, jobs))

    def close(self) -> None:
        """End the workers."""
        self._threads.shutdown()
        for worker in list(self._open):
            self._end(worker)

    def _one(self, job: tuple[Problem, str]) -> Grade:
        """The grade of one job; a worker that dies on it is replaced, and dying on it twice is its doing. One that was
        dead before it took the job says nothing about it."""
        problem, solution = job
        line = {"problem": to_plain(problem), "solution": solution, "settings": self._grading.model_dump(mode="json")}
        text = json.dumps(line) + "\n"
        seconds = self._grading.oracle.wall_seconds * 2 + self._settings.test_seconds
        died = 0
        for _ in range(_DEATHS + self._settings.num_workers):
            try:
                worker = self._alive(self._free.get()) or self._started()
            except SandboxRefused as error:
                self._free.put(None)
                return Grade("infrastructure", 0, len(problem.tests), str(error))
            kept: _Worker | None = None
            try:
                answer: Grade = from_plain(Grade, worker.ask(text, seconds))
                kept = worker
                return answer
            except TimeoutError:
                return Grade("limit", 0, len(problem.tests), "the tests did not end on its answers")
            except _NeverTaken:
                continue
            except OSError as error:
                died += 1
                if died == _DEATHS:
                    return Grade("limit", 0, len(problem.tests), f"the process that graded it died twice: {error}")
            finally:
                self._free.put(kept)
                if kept is None:
                    self._end(worker)
        return Grade("infrastructure", 0, len(problem.tests), "the processes that grade die before they take it")

    def _alive(self, worker: _Worker | None) -> _Worker | None:
        """The worker, unless it died while it had nothing to do: no solution is to blame for that."""
        if worker is not None and not worker.alive():
            self._end(worker)
            return None
        return worker

    def _started(self) -> _Worker:
        """A new worker that has opened its sandbox.

        Raises:
            SandboxRefused: it could not.
        """
        worker = _Worker(self._settings)
        if problem := worker.problem():
            worker.end()
            raise SandboxRefused(problem)
        self.sandbox_record = worker.record
        with self._lock:
            self._open.add(worker)
        return worker

    def _end(self, worker: _Worker) -> None:
        with self._lock:
            self._open.discard(worker)
        worker.end()


class _NeverTaken(Exception):
    """The process was gone before it took the job."""


class _Worker:
    """One process and its pipes."""

    def __init__(self, settings: WorkerSettings) -> None:
        given = [settings.opener, settings.sandbox.model_dump_json(), str(settings.memory_bytes)]
        self.record: Mapping[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rung.scoring.grading._worker", *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._said = b""

    def problem(self) -> str:
        """Why it cannot grade; empty when it is ready."""
        try:
            said = self._line(_START_SECONDS)
        except (OSError, TimeoutError) as error:
            return f"the process that grades did not start: {error or 'no word from it in time'}"
        self.record = said.get("record", {})
        return str(said.get("refused", ""))

    def ask(self, line: str, seconds: float) -> Any:
        """The answer to one job.

        Raises:
            TimeoutError: none came in time.
            OSError: the process has ended.
            _NeverTaken: it had ended before.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
            self._line(seconds)
        except TimeoutError:
            raise
        except OSError as error:
            raise _NeverTaken from error
        return self._line(seconds)

    def _line(self, seconds: float) -> Any:
        assert self._process.stdout is not None
        deadline, end = time.monotonic() + seconds, self._process.stdout.fileno()
        while b"\n" not in self._said:
            if not select.select([end], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            piece = os.read(end, 1 << 16)
            if not piece:
                raise OSError("the worker has ended")
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        return json.loads(line)

    def alive(self) -> bool:
        """Whether its process still runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill it; what it ran in its sandbox dies with it."""
        self._process.kill()
        self._process.communicate()
