"""A stage whose shards die, hang, fail, spend or wait where told; workers import it by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from rung.base.errors import ModelError
from rung.base.seeds import stream
from rung.base.settings import Field, Settings
from rung.pipeline.sharding import for_each_shard
from rung.pipeline.stage import Context, Stage
from rung.records.types import Drop, Instruction


class FakeModels:
    """A keeper of models that counts its processes in a folder, by a file each."""

    def load(self, source: str, adapter: Any = None) -> str:
        """Leaves a trace."""
        _trace("loaded")
        return source

    def release(self) -> None:
        """Nothing is held."""


class PiecesSettings(Settings):
    """Settings of `Pieces`."""

    shards: int = Field(6, ge=1, description="number of shards")
    count: int = Field(3, ge=0, description="records of a shard")
    steps: int = Field(5, ge=1, description="steps of a shard, of two tokens each")
    price: float = Field(0.0, description="money of a shard")


class Pieces(Stage):
    """Seeded records in shards, made in steps of two tokens. `TOY_DEED` is `deed:shard[:once]`."""

    Settings = PiecesSettings
    outputs = {"drops": "drop", "records": "instruction"}

    def run(self, context: Context, inputs: Any, outputs: Any) -> None:
        """Shard after shard, by whoever makes them."""

        def make_work() -> Any:
            """The model is loaded here."""
            model = context.models.load(context.model_source)
            outputs.note("model", {"source": model, **_fact()})
            _trace("begun")
            return work

        def work(index: int) -> None:
            """One shard, in steps."""
            for step in range(self.settings.steps):
                deed("step", index, step, context)
                context.budget.poll(tokens=2)
            draws = stream(context.seed, "pieces", index)
            rows = [
                Instruction(f"{index}-{i}", f"{draws.random()}", "t", "h", index) for i in range(self.settings.count)
            ]
            outputs.shard("drops", index, [Drop(f"d{index}", "x", "p", "r")])
            deed("between", index, 0, context)
            outputs.shard("records", index, rows)
            context.budget.spend(tokens=2 * self.settings.steps, money=self.settings.price)

        def after(index: int) -> None:
            """A trace of the order in which shards came to the run."""
            outputs.note("figures", {"seen": len(outputs.finished("records"))})

        indices = range(self.settings.shards)
        for_each_shard(context, outputs, "records", indices, make_work, after=after)


def _trace(what: str) -> None:
    if folder := os.environ.get("TOY_TRACES"):
        (Path(folder) / f"{what}-{os.getpid()}").touch()


def _fact() -> dict[str, str]:
    return {"precision": os.environ.get("OMP_NUM_THREADS", "") if os.environ.get("TOY_FACTS") else "float32"}


def deed(place: str, index: int, step: int, context: Context) -> None:
    """Do what the environment says at this place, once when it says so (a file in TOY_TRACES remembers)."""
    for told in filter(None, os.environ.get("TOY_DEED", "").split(",")):
        name, where, shard, *once = told.split(":")
        if where != place or shard not in ("all", str(index)) or step != (2 if place == "step" else 0):
            continue
        mark = Path(os.environ["TOY_TRACES"]) / f"{name}-{index}"
        if once and mark.exists():
            continue
        mark.touch()
        _do(name, index, context)


def _do(name: str, index: int, context: Context) -> None:
    if name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
    if name == "fail":
        raise ModelError(f"planted in shard {index}")
    while name == "wait" or (name == "meet" and len(list(Path(os.environ["TOY_TRACES"]).glob("begun-*"))) < 2):
        context.budget.poll()
        time.sleep(0.01)
