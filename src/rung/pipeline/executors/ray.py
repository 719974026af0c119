"""Shards on a Ray cluster: the workers are actors, on whichever machines the cluster has.

The same crew and the same worker as on one machine; only the messages travel otherwise. What a stage reads goes to an
actor as bytes and what it makes comes back as bytes, so the machines need no file system in common. They need the
same rung and the same extras, and the run's model must be found from each of them.
Source: Ray's actor API (Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from rung.base.errors import MissingDependency, WorkerLost
from rung.base.settings import Field
from rung.pipeline.executors._crew import Crew, CrewSettings, Incoming
from rung.pipeline.executors._worker import Worker
from rung.pipeline.job import Job, Order, Report
from rung.pipeline.stage import Context, Outputs, Shards
from rung.records.manifest import FILE_NAME, open_manifest

__all__ = ["Ray"]

_WAIT_SECONDS = 1.0
# Taking orders, handing over reports, and one to spare.
_CALLS_AT_ONCE = 3


class RaySettings(CrewSettings):
    """Which cluster, how many actors, and what each may use."""

    address: str = Field("", description="of a cluster, such as ray://head:10001 or auto; empty: one on this machine")
    cpus_per_worker: float = Field(1.0, gt=0, description="processor cores that an actor reserves")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs that an actor reserves; nobody else gets them")


class Ray:
    """Actors make the shards."""

    Settings: ClassVar[type[RaySettings]] = RaySettings

    def __init__(self, settings: RaySettings) -> None:
        self._settings, self.num_workers = settings, settings.workers

    def run(self, shards: Shards, context: Context, outputs: Outputs) -> None:
        """As `rung.pipeline.stage.Executor.run`.

        Raises:
            MissingDependency: Ray is not installed.
            WorkerLost: the cluster cannot be reached.
        """
        if importlib.util.find_spec("ray") is None:
            raise MissingDependency("this executor needs ray", place="executor", hint="pip install 'rung[ray]'")
        ray = importlib.import_module("ray")
        with _connected(ray, self._settings):
            inputs = ray.put({name: _packed(folder) for name, folder in context.job.inputs.items()})
            actor = ray.remote(
                num_cpus=self._settings.cpus_per_worker,
                num_gpus=self._settings.gpus_per_worker,
                max_concurrency=_CALLS_AT_ONCE,
            )(_Actor)

            def hire(number: int, job: Job, inbox: queue.Queue[Incoming]) -> _ActorHand:
                """An actor with what the stage reads."""
                return _ActorHand(ray, number, job, actor.remote(job.model_dump_json(), inputs), inbox)

            Crew(hire, self._settings, shards, context, outputs).run()


@contextlib.contextmanager
def _connected(ray: Any, settings: RaySettings) -> Iterator[None]:
    """A connection for as long as the block runs; one that is there already stays."""
    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    local: dict[str, Any] = {"num_cpus": max(1, round(settings.workers * settings.cpus_per_worker))}
    place: dict[str, Any] = {"address": settings.address} if settings.address else {**local, "include_dashboard": False}
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {"env_vars": {"PYTHONPATH": paths}} if not settings.address else {}
    try:
        ray.init(**place, log_to_driver=False, logging_level="ERROR", runtime_env=environment)
    except Exception as error:  # Ray raises plain ones
        hint = "is the cluster up? ray status --address ..."
        raise WorkerLost(f"Ray cannot be reached: {error}", place="executor.address", hint=hint) from error
    try:
        if threading.current_thread() is threading.main_thread():
            # Ray takes SIGTERM for itself; for a run it is a request to stop at a safe point.
            signal.signal(signal.SIGTERM, before)
        yield
    finally:
        ray.shutdown()


def _packed(folder: Path) -> dict[str, bytes]:
    """A finished output, file by file."""
    manifest = open_manifest(folder).manifest
    shards = [info.name for infos in manifest.shards.values() for info in infos]
    names = [FILE_NAME, *shards, *(file.name for file in manifest.files)]
    return {name: (folder / name).read_bytes() for name in names}


def _own_folder(job: Job) -> Path:
    """A new folder: beside the run's work where that can be seen, and goes with it; else where this machine has room
    for such things."""
    if job.folder.parents[1].is_dir():
        job.folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=job.folder))
    return Path(tempfile.mkdtemp(prefix="rung-worker-"))


class _Actor:
    """A worker on a machine of the cluster. Its methods are called from the run; it works in a thread of its own."""

    def __init__(self, job: str, inputs: Mapping[str, Mapping[str, bytes]]) -> None:
        self._folder = folder = _own_folder(Job.model_validate_json(job))
        for name, packed in inputs.items():
            for file, data in packed.items():
                path = folder / "inputs" / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        here = {"folder": folder / "made", "inputs": {name: folder / "inputs" / name for name in inputs}}
        self._job = Job.model_validate_json(job).model_copy(update=here)
        self._reports: queue.Queue[Report] = queue.Queue()
        self._worker = Worker(self._job, self._reports.put)
        threading.Thread(target=self._worker.serve, daemon=True).start()

    def take(self, order: str) -> None:
        """Pass an order on."""
        self._worker.take(Order.model_validate_json(order))

    def reports(self) -> list[tuple[str, dict[str, bytes]]]:
        """What has been reported since the last call, or within a second, with the bytes of finished shards."""
        found: list[Report] = []
        try:
            found.append(self._reports.get(timeout=_WAIT_SECONDS))
            while True:
                found.append(self._reports.get_nowait())
        except queue.Empty:
            told = [(report.model_dump_json(), self._bytes(report)) for report in found]
        if any(report.kind == "ended" for report in found):
            shutil.rmtree(self._folder, ignore_errors=True)
        return told

    def _bytes(self, report: Report) -> dict[str, bytes]:
        return {made.info.name: (self._job.folder / made.info.name).read_bytes() for made in report.shards}


class _ActorHand:
    """The run's end of an actor (`rung.pipeline.executors._crew.Hand`)."""

    def __init__(self, ray: Any, number: int, job: Job, actor: Any, inbox: queue.Queue[Incoming]) -> None:
        self.folder, self._ray, self._number = job.folder, ray, number
        self._actor, self._inbox, self._how = actor, inbox, "ended"
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, order: Order) -> None:
        """Call the actor; a call to one that is gone goes nowhere."""
        self._actor.take.remote(order.model_dump_json())

    def kill(self) -> None:
        """End the actor's process."""
        self._ray.kill(self._actor)

    def ended(self) -> str:
        """What Ray says of its end."""
        self._ray.kill(self._actor)
        return self._how

    def _listen(self) -> None:
        try:
            ended = False
            while not ended:
                for text, data in self._ray.get(self._actor.reports.remote()):
                    report = Report.model_validate_json(text)
                    ended = ended or report.kind == "ended"
                    self._inbox.put(Incoming(self._number, report, data))
        except self._ray.exceptions.RayError as error:
            self._how = f"is lost: {type(error).__name__}: {str(error).splitlines()[0]}"
        self._inbox.put(Incoming(self._number, None))
