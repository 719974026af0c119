"""Shards on this machine: one after another in the run's process, or in several processes with a device each.

Workers are fresh interpreters, never forks. A device belongs to one worker: a GPU by its number, a share of the
processor's threads otherwise. Two workers of equal threads give the same bits as one only where the arithmetic does
not depend on the number of threads; `threads` keeps it equal to another run's when it does.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from rung.base.errors import SettingsError
from rung.base.settings import Field
from rung.pipeline.executors._crew import Crew, CrewSettings, Incoming
from rung.pipeline.executors._in_turn import in_turn
from rung.pipeline.job import Job, Order, Report
from rung.pipeline.stage import Context, Outputs, Shards

__all__ = ["Local"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_LAST_WORDS = 400


class LocalSettings(CrewSettings):
    """Workers of this machine and what each may use."""

    devices: tuple[str, ...] = Field((), description="one per worker, such as cuda:0; empty: the GPUs, or cpu")
    threads: int = Field(0, ge=0, description="processor threads of a worker; 0: an equal share")


class Local:
    """One worker is this very process; several are processes of their own."""

    Settings: ClassVar[type[LocalSettings]] = LocalSettings

    def __init__(self, settings: LocalSettings) -> None:
        self._settings, self.num_workers = settings, settings.workers

    def run(self, shards: Shards, context: Context, outputs: Outputs) -> None:
        """As `rung.pipeline.stage.Executor.run`."""
        if self.num_workers == 1:
            in_turn(shards, context, outputs)
            return
        devices = self._devices()

        def hire(number: int, job: Job, inbox: queue.Queue[Incoming]) -> _Process:
            """A process with the device of that number."""
            return _Process(number, job, self._environment(devices[number]), inbox)

        Crew(hire, self._settings, shards, context, outputs).run()

    def _devices(self) -> tuple[str, ...]:
        """A device for each worker.

        Raises:
            SettingsError: there are fewer than workers, or two would share a GPU.
        """
        found = self._settings.devices or tuple(f"cuda:{n}" for n in _gpus()) or ("cpu",) * self.num_workers
        gpus = [device for device in found if device != "cpu"]
        if len(found) < self.num_workers or len(set(gpus)) < len(gpus):
            raise SettingsError(
                f"{self.num_workers} workers cannot have a device each: {', '.join(found)}",
                place="executor.devices",
                hint=f"executor.workers={len(set(gpus)) or 1}, or name one device per worker",
            )
        return found

    def _environment(self, device: str) -> dict[str, str]:
        threads = str(self._settings.threads or max(1, _num_cores() // self.num_workers))
        gpu = device.removeprefix("cuda:") if device != "cpu" else ""
        paths = os.pathsep.join(path for path in sys.path if path)
        return {**os.environ, **dict.fromkeys(_THREADS, threads), "CUDA_VISIBLE_DEVICES": gpu, "PYTHONPATH": paths}


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """Numbers of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [number for number in visible.split(",") if number]
    return [str(n) for n, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*/information"))]


class _Process:
    """A worker in a process of its own (`rung.pipeline.executors._crew.Hand`)."""

    def __init__(self, number: int, job: Job, environment: Mapping[str, str], inbox: queue.Queue[Incoming]) -> None:
        self.folder, self._number, self._inbox = job.folder, number, inbox
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = self.folder / "log.txt"
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for the run, which then asks its workers.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rung.pipeline.executors._worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._write(job.model_dump_json())
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, order: Order) -> None:
        """Write a line."""
        self._write(order.model_dump_json())

    def kill(self) -> None:
        """SIGKILL, which also ends a process that was stopped."""
        self._process.kill()

    def ended(self) -> str:
        """Its exit code or signal, and its last words."""
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        words = self._log.read_text(encoding="utf-8", errors="replace").strip()[-_LAST_WORDS:]
        return f"{how}: {words}" if words and code else how

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            # Its end is in the inbox, or will be in a moment, and is dealt with there.
            return

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    self._inbox.put(Incoming(self._number, Report.model_validate_json(line)))
        self._inbox.put(Incoming(self._number, None))
