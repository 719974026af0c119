"""A worker: runs the very code of a stage, for the shards it is handed, in a process of its own.

Over the pipes of `python -m` it gets its job and then orders, a line of JSON each, and answers in the same way. It
writes into its own folder and nowhere else. It ends when the pipe does, so a run that was killed leaves no process.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rung.base import trace
from rung.base.errors import DataError
from rung.base.events import Events
from rung.base.fingerprint import plain
from rung.base.lookup import lookup
from rung.base.settings import validate
from rung.pipeline.budget import Budget, BudgetSettings, Spend
from rung.pipeline.executors._in_turn import ABOUT_ALL
from rung.pipeline.job import Job, MadeShard, Order, Problem, Report
from rung.pipeline.recipe import FOLDER
from rung.pipeline.stage import Context, Outputs, Shards, Stage
from rung.records.manifest import open_manifest
from rung.records.shards import ShardInfo, write_shard

__all__ = ["Worker", "main"]

_SIGN_OF_LIFE_SECONDS = 0.5
_PIPE_ENDED = 3
# PR_SET_PDEATHSIG of <linux/prctl.h>.
_SET_DEATH_SIGNAL = 1


class _Dismissed(Exception):
    """Leaves the stage when there is nothing more to make."""


class _WorkerOutputs:
    """Takes the shards of one worker (`rung.pipeline.stage.Outputs`); those of others are not to be seen here."""

    def __init__(self, job: Job, declared: Mapping[str, str], report: Callable[[Report], None]) -> None:
        self._job, self._declared, self._report = job, declared, report
        self._made: list[MadeShard] = []

    def shard(self, output: str, index: int, records: Sequence[Any]) -> None:
        """Write it into the worker's folder."""
        name = f"{output}-{index:04d}.jsonl.zst"
        info = write_shard(self._job.folder, name, self._declared[output], records)
        self._made.append(MadeShard(output=output, index=index, info=info))

    def made(self) -> tuple[MadeShard, ...]:
        """What was written since this was asked last."""
        made, self._made = tuple(self._made), []
        return made

    def finished(self, output: str) -> list[int]:
        """None: which shards are finished is the run's affair."""
        return []

    def records(self, output: str) -> list[Any]:
        """None, as `finished` says."""
        return []

    def shard_records(self, output: str, index: int) -> list[Any]:
        """Refused.

        Raises:
            DataError: always.
        """
        raise DataError(f"a worker cannot read shard {index} of '{output}'", place=self._job.name)

    def adopt(self, output: str, index: int, info: ShardInfo, source: Path | bytes) -> None:
        """Refused.

        Raises:
            DataError: always.
        """
        raise DataError(f"a worker cannot take over shard {index} of '{output}'", place=self._job.name)

    def quarantine(self, output: str, index: int, causes: Sequence[str]) -> None:
        """Nothing: the run decides what is given up."""

    def file(self, name: str, role: str) -> Path:
        """Refused: a file belongs to the stage, not to a shard.

        Raises:
            DataError: always.
        """
        raise DataError(f"a worker cannot write the file '{name}'", place=self._job.name, hint="write it after the "
                        "shards, in the run's own process")  # fmt: skip

    def note(self, section: str, values: Mapping[str, Any]) -> None:
        """Tell the run."""
        self._report(Report(kind="note", section=section, values=plain(dict(values))))


class _Relay:
    """Sends every event to the run."""

    def __init__(self, report: Callable[[Report], None]) -> None:
        self._report = report

    def handle(self, event: dict[str, Any]) -> None:
        """Send it."""
        self._report(Report(kind="event", values=plain(event)))

    def close(self) -> None:
        """Nothing is held."""


class _Handed:
    """The executor inside a worker: makes the shards that the run hands over, one at a time."""

    num_workers = 1

    def __init__(self, worker: Worker, made: Callable[[], tuple[MadeShard, ...]]) -> None:
        self._worker, self._made = worker, made

    def run(self, shards: Shards, context: Context, outputs: Outputs) -> None:
        """Until the run says stop."""
        work = shards.make_work()
        self._worker.tell(Report(kind="ready"))
        while (index := self._worker.next_shard()) is not None:
            problem: Exception | None = None
            try:
                context.budget.reserve_like(Spend())
                with context.events.span("shard", shard=index):
                    work(index)
            except Exception as error:  # noqa: BLE001 - told to the run, which decides
                problem = error
            made = self._made()
            whole = any((one.output, one.index) == (shards.output, index) for one in made)
            if problem is None or (whole and isinstance(problem, ABOUT_ALL)):
                # A cap or a stop that is met after the shard was saved does not unmake it.
                self._worker.tell(Report(kind="done", index=index, shards=made))
                continue
            self._worker.tell(Report(kind="failed", index=index, problem=Problem.of(problem)))
            if isinstance(problem, ABOUT_ALL):
                break
        raise _Dismissed


class Worker:
    """One worker, whatever carries its messages.

    Args:
        job: what it is hired for; `job.folder` is its own.
        send: takes its reports, from whichever thread they come.
    """

    def __init__(self, job: Job, send: Callable[[Report], None]) -> None:
        self._job, self._send = job, send
        self._sending = threading.Lock()
        self._indices: queue.Queue[int | None] = queue.Queue()
        self._answers: queue.Queue[BudgetSettings | None] = queue.Queue()
        self._stopped, self._told_at = threading.Event(), 0.0
        self.budget = Budget(
            BudgetSettings(price_per_hour=job.price_per_hour),
            stop=self._stopped.is_set,
            saved=self._alive,
            ask=self._ask,
        )

    def take(self, order: Order) -> None:
        """An order has come; called from the thread that listens."""
        if order.kind == "caps":
            self._answers.put(order.caps)
            return
        if order.kind == "stop":
            self._stopped.set()
            self._answers.put(None)
        elif order.caps is not None:
            self.budget.settings = order.caps
        self._indices.put(order.index if order.kind == "do" else None)

    def tell(self, report: Report) -> None:
        """Send a report with what was spent so far."""
        with self._sending:
            self._told_at = time.monotonic()
            self._send(report.model_copy(update={"spend": asdict(self.budget.stage)}))

    def next_shard(self) -> int | None:
        """The next index to work on; None: there is no more."""
        return None if self._stopped.is_set() else self._indices.get()

    def serve(self) -> None:
        """Run the stage until it is dismissed; what keeps it from beginning is reported."""
        place = trace.parse(self._job.traceparent)
        try:
            with trace.entered(place) if place else contextlib.nullcontext():
                self._run()
        except _Dismissed:
            self.budget.settle()
        except Exception as error:  # noqa: BLE001 - told to the run, which raises it there
            self.tell(Report(kind="failed", problem=Problem.of(error)))
        self.tell(Report(kind="ended"))

    def _run(self) -> None:
        job, kind = self._job, lookup(FOLDER, self._job.kind)
        stage: Stage = kind(validate(kind.Settings, job.settings, job.name))
        outputs = _WorkerOutputs(job, stage.outputs, self.tell)
        scratch = job.folder / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        module, _, name = job.models.partition(":")
        context = Context(
            run=job.run,
            name=job.name,
            seed=job.seed,
            events=Events([_Relay(self.tell)]),
            budget=self.budget,
            models=getattr(importlib.import_module(module), name)(),
            scratch=scratch,
            executor=_Handed(self, outputs.made),
            job=job,
            model_source=job.model_source,
            fingerprint=job.fingerprint,
            bypasses=job.bypasses,
        )
        stage.run(context, {name: open_manifest(folder) for name, folder in job.inputs.items()}, outputs)

    def _alive(self, spend: Spend) -> None:
        if time.monotonic() - self._told_at >= _SIGN_OF_LIFE_SECONDS:
            self.tell(Report(kind="alive"))

    def _ask(self, wanted: Spend) -> BudgetSettings | None:
        self.tell(Report(kind="more", wanted=asdict(wanted)))
        return self._answers.get()


def main() -> None:
    """Serve over standard input and output; whatever else prints, prints to standard error."""
    _end_with_the_run()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        job = Job.model_validate_json(sys.stdin.readline())
        worker = Worker(job, lambda report: print(report.model_dump_json(), file=out, flush=True))
        threading.Thread(target=_listen, args=(worker,), daemon=True).start()
        worker.serve()


def _end_with_the_run() -> None:
    """A process that is stopped, or stuck with the interpreter's lock held, cannot hear that the pipe has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


def _listen(worker: Worker) -> None:
    for line in sys.stdin:
        worker.take(Order.model_validate_json(line))
    # The run is gone: nobody would take what is being made.
    os._exit(_PIPE_ENDED)


if __name__ == "__main__":
    main()
