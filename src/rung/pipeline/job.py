"""What passes between a run and its workers: the job they are hired for, orders to them, reports from them.

All of it is JSON, a line each. A worker gets a stage as the run resolved it, never a recipe to interpret again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rung.base import errors
from rung.base.errors import RungError
from rung.base.prices import Price
from rung.base.settings import Field, Settings
from rung.pipeline.budget import BudgetSettings, Spend
from rung.records.shards import ShardInfo

__all__ = ["Job", "MadeShard", "Order", "Problem", "Report", "spent_in"]


class Job(Settings):
    """A stage to work on. Paths are those of this run on this machine; none of it is part of an identity."""

    run: str = Field(description="name of the run")
    name: str = Field(description="the stage's name in the recipe")
    kind: str = Field(description="the kind of stage")
    settings: dict[str, Any] = Field(description="complete settings of the stage")
    seed: int = Field(description="of the stage")
    model_source: str = Field("", description="the recipe's model, when the stage looks at it")
    fingerprint: str = Field("", description="of the output")
    bypasses: tuple[str, ...] = Field((), description="inherited by the output")
    price_per_hour: float = Field(0.0, description="of a device")
    prices: dict[str, Price] = Field(default_factory=dict, description="of outside models, by name")
    inputs: dict[str, Path] = Field(default_factory=dict, description="input name -> folder of the finished output")
    models: str = Field(description="module:Class that makes the keeper of models in a worker")
    folder: Path = Field(Path(), description="where this worker may write")
    traceparent: str = Field("", description="the span that the worker's spans are below, wherever it runs")


class Order(Settings):
    """To a worker: make shard `index`, here are your `caps`, or stop. Caps are on all that this worker spends."""

    kind: Literal["do", "caps", "stop"]
    index: int = Field(-1, description="of the shard to make")
    caps: BudgetSettings | None = Field(None, description="None as an answer: there is no more")


class MadeShard(Settings):
    """A file that a worker made for a shard."""

    output: str = Field(description="name of the output")
    index: int = Field(description="of the shard")
    info: ShardInfo


class Problem(Settings):
    """An exception, as it can be told in another process."""

    kind: str = Field(description="name of its class")
    message: str
    place: str = ""
    hint: str = ""

    @staticmethod
    def of(error: Exception) -> Problem:
        """`error` in words."""
        if isinstance(error, RungError):
            return Problem(kind=type(error).__name__, message=error.message, place=error.place, hint=error.hint)
        return Problem(kind=type(error).__name__, message=f"{type(error).__name__}: {error}")

    def error(self) -> RungError:
        """An error of the same named class; a plain `RungError` for a class that is not rung's."""
        kind = getattr(errors, self.kind) if self.kind in errors.__all__ else RungError
        found: RungError = kind(self.message, place=self.place, hint=self.hint)
        return found


class Report(Settings):
    """From a worker. `spend` is all it spent since it started; every report is a sign of life."""

    kind: Literal["ready", "alive", "note", "event", "more", "done", "failed", "ended"]
    index: int = Field(-1, description="of the shard that is done or failed; -1: it could not even begin")
    spend: dict[str, float] = Field(default_factory=dict)
    section: str = Field("", description="of a note")
    values: dict[str, Any] = Field(default_factory=dict, description="of a note, or an event")
    wanted: dict[str, float] = Field(default_factory=dict, description="what it would have spent after the next piece")
    shards: tuple[MadeShard, ...] = Field((), description="what was made, in the order it was written")
    problem: Problem | None = None


def spent_in(values: Mapping[str, float]) -> Spend:
    """The amount in a report."""
    return Spend(**{**asdict(Spend()), **values})
