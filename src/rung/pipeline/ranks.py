"""Stages that several processes work on together, in step: this one, the first rank, and others that follow it.

The first rank runs the recipe. When a stage's `training.devices` ask for more ranks, the others get the stage as the
run resolved it and run the very same code, up to where it would publish what was trained; that the first does alone.
All ranks see the run's folder.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rung.base.errors import DataError, SettingsError
from rung.base.events import Events
from rung.base.lookup import lookup
from rung.base.settings import Field, Settings, validate
from rung.pipeline.budget import Budget, BudgetSettings
from rung.pipeline.job import Job
from rung.pipeline.recipe import FOLDER, Recipe
from rung.pipeline.stage import Context, Stage
from rung.records.manifest import open_manifest
from rung.records.shards import ShardInfo

__all__ = ["Joint", "Together", "demand_ranks", "follow_stage", "joined", "num_ranks_of"]


class Joint(Settings):
    """A stage that ranks work on together."""

    job: Job = Field(description="the stage as the run resolved it")
    scratch: Path = Field(description="where its checkpoints are")
    num_ranks: int = Field(ge=2, description="how many ranks work on it")
    timeout_seconds: float = Field(gt=0, description="a rank that is silent for longer is lost")


class Together(Protocol):
    """The ranks of a job, seen from the first."""

    num_ranks: int

    def joint(self, work: Joint) -> contextlib.AbstractContextManager[None]:
        """While it is entered, the first `work.num_ranks` ranks do this work together."""


def num_ranks_of(stage: Stage) -> int:
    """How many ranks a stage's training asks for."""
    return int(getattr(_devices(stage), "size", 1))


def demand_ranks(recipe: Recipe, num_ranks: int) -> None:
    """Before any work.

    Raises:
        SettingsError: a stage asks for more ranks than there are.
    """
    for spec in recipe.stages:
        wanted = num_ranks_of(spec.stage)
        if wanted > num_ranks:
            raise SettingsError(
                f"it needs {wanted} ranks, the job has {num_ranks}",
                place=f"{spec.name}.training.devices",
                hint=f"torchrun --nproc-per-node {wanted} -m rung run RECIPE, or rung run, which starts them",
            )


def joined(together: Together | None, stage: Stage, context: Context) -> contextlib.AbstractContextManager[None]:
    """While it is entered, the ranks that the stage asks for run it too.

    Raises:
        SettingsError: there are not so many.
    """
    wanted = num_ranks_of(stage)
    if wanted == 1:
        return contextlib.nullcontext()
    if together is None or together.num_ranks < wanted:
        raise SettingsError(
            f"it needs {wanted} ranks, the job has {together.num_ranks if together else 1}",
            place=f"{context.name}.training.devices",
        )
    assert context.job is not None
    seconds = _devices(stage).timeout_seconds
    return together.joint(
        Joint(job=context.job, scratch=context.scratch.resolve(), num_ranks=wanted, timeout_seconds=seconds)
    )


def follow_stage(work: Joint) -> None:
    """Run the stage as one of the other ranks: nothing is written, said or paid for here."""
    job, kind = work.job, lookup(FOLDER, work.job.kind)
    stage: Stage = kind(validate(kind.Settings, job.settings, job.name))
    module, _, name = job.models.partition(":")
    models = getattr(importlib.import_module(module), name)()
    context = Context(
        run=job.run,
        name=job.name,
        seed=job.seed,
        events=Events(),
        budget=Budget(BudgetSettings()),
        models=models,
        scratch=work.scratch,
        executor=_Nobody(),
        job=job,
        model_source=job.model_source,
        fingerprint=job.fingerprint,
        bypasses=job.bypasses,
    )
    try:
        with contextlib.suppress(_Trained):
            stage.run(context, {name: open_manifest(folder) for name, folder in job.inputs.items()}, _Unwritten())
    finally:
        models.release()


def _devices(stage: Stage) -> Any:
    return getattr(getattr(stage.settings, "training", None), "devices", None)


class _Trained(Exception):
    """Leaves the stage where the first rank publishes."""


class _Nobody:
    """No executor: ranks that train make no shards (`rung.pipeline.stage.Executor`)."""

    num_workers = 1

    def run(self, shards: Any, context: Context, outputs: Any) -> None:
        """Refused.

        Raises:
            DataError: always.
        """
        raise DataError("ranks that work together make no shards", place=context.name)


class _Unwritten:
    """What a following rank writes: nothing (`rung.pipeline.stage.Outputs`)."""

    def shard(self, output: str, index: int, records: Sequence[Any]) -> None:
        """The first to be written ends this rank's part."""
        raise _Trained

    def finished(self, output: str) -> list[int]:
        """None."""
        return []

    def records(self, output: str) -> list[Any]:
        """None."""
        return []

    def shard_records(self, output: str, index: int) -> list[Any]:
        """None."""
        return []

    def adopt(self, output: str, index: int, info: ShardInfo, source: Path | bytes) -> None:
        """As `shard`."""
        raise _Trained

    def quarantine(self, output: str, index: int, causes: Sequence[str]) -> None:
        """Nothing."""

    def file(self, name: str, role: str) -> Path:
        """As `shard`."""
        raise _Trained

    def note(self, section: str, values: Mapping[str, Any]) -> None:
        """Nothing: the first rank notes the same."""
