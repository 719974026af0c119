"""Stages for the pipeline's own tests: they count, double and sum instructions, and fail or stall where told."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from rung.base.errors import ModelError
from rung.base.fingerprint import Code
from rung.base.seeds import stream
from rung.base.settings import Field, Settings
from rung.pipeline.gates import Threshold, evaluate
from rung.pipeline.sharding import for_each_shard
from rung.pipeline.stage import Context, Estimate, Stage, Verdict
from rung.records.manifest import Opened
from rung.records.types import Instruction


class FakeModels:
    """Stands in for the keeper of models: nothing to load."""

    def __init__(self) -> None:
        self.released = 0

    def load(self, source: str, adapter: Any = None) -> str:
        """The source itself."""
        return source

    def release(self) -> None:
        """Count."""
        self.released += 1


CLEAN = Code(commit="c" * 40, branch="main", dirty=False, source_hash="s")
DIRTY = CLEAN.model_copy(update={"dirty": True})
UNKNOWN = CLEAN.model_copy(update={"commit": "unknown"})


class MakeSettings(Settings):
    """Settings of `Make`."""

    count: int = Field(4, ge=0, description="records per shard")
    shards: int = Field(3, ge=1, description="number of shards")
    temperature: float = Field(0.5, ge=0, le=2, description="carried into the text")
    minimum: float = Field(0.0, description="the gate's limit on the total")
    min_samples: int = Field(0, description="the gate decides from this many records on")
    fail_shards: tuple[int, ...] = Field((), description="shards that raise")
    old: int = Field(0, description="gone", deprecated="it did nothing; use count")


class Make(Stage):
    """Makes seeded random instructions, one piece per shard."""

    Settings = MakeSettings
    outputs = {"records": "instruction", "drops": "drop"}

    def run(self, context: Context, inputs: Any, outputs: Any) -> None:
        """Shard after shard."""
        outputs.note("calibration", {"critic": {"auc": 0.9}})

        def make_piece() -> Any:
            """Nothing to load."""
            return piece

        def piece(index: int) -> None:
            """One shard."""
            if index in self.settings.fail_shards and not os.environ.get("TOY_HEALED"):
                raise ModelError(f"planted in shard {index}")
            context.budget.reserve(tokens=10)
            stall("before", index)
            draws = stream(context.seed, "make", index)
            outputs.shard("drops", index, [])
            stall("between", index)
            rows = [
                Instruction(f"{index}-{i}", f"{draws.random()} {self.settings.temperature}", "t", "h", context.seed)
                for i in range(self.settings.count)
            ]
            outputs.shard("records", index, rows)
            context.budget.spend(tokens=10)

        for_each_shard(context, outputs, "records", range(self.settings.shards), make_piece)

    def estimate(self, inputs: Any) -> Estimate:
        """Ten tokens a shard."""
        return Estimate(seconds=36.0, tokens=10.0 * self.settings.shards, basis="a toy")

    def figures(self, output: Opened) -> dict[str, Any]:
        """How many."""
        return {"total": sum(1 for _ in output.records("records")), "mean": 1 / 3}

    def gate(self, figures: Any) -> Verdict:
        """Enough of them?"""
        rule = Threshold("total", "total", ">=", self.settings.minimum, self.settings.min_samples, "total")
        return evaluate([rule], figures)


class Limits(Settings):
    """Two numbers."""

    low: int = Field(0, description="from")
    high: int = Field(5, description="to")


class CopySettings(Settings):
    """Settings of `Copy`."""

    data: str = Field(description="stage whose records are copied")
    limits: Limits = Field(Limits(), description="taken from the data")


class Copy(Stage):
    """Copies records and sums their lengths into a file."""

    Settings = CopySettings
    outputs = {"records": "instruction"}
    uses_model = False

    def inputs(self) -> dict[str, str]:
        """The data."""
        return {"data": self.settings.data}

    def derived(self, inputs: Any) -> dict[str, Any]:
        """The temperature of the data."""
        if "data" not in inputs:
            return {}
        value, origin = inputs["data"].manifest.settings.get("temperature"), f"derived from {self.settings.data}"
        return {"temperature": (value, origin), "limits": ({"low": 1, "high": 9}, origin)}

    def units(self, inputs: Any) -> float:
        """Five, whatever there is."""
        return 5.0

    def run(self, context: Context, inputs: Any, outputs: Any) -> None:
        """One shard."""
        assert context.model_source == ""
        rows = list(inputs["data"].records("records"))
        outputs.shard("records", 0, rows)
        outputs.file("summary.txt", "summary").write_text(f"{len(rows)} rows\n")
        context.events.degraded("index", "went on without it")


class Steps(Stage):
    """A loop with checkpoints in scratch, like training: its state after n steps depends on all of them."""

    class Settings(Settings):
        """How long."""

        data: str = Field(description="input")
        steps: int = Field(20, ge=1, description="steps")

    outputs = {}

    def inputs(self) -> dict[str, str]:
        """The data."""
        return {"data": self.settings.data}

    def run(self, context: Context, inputs: Any, outputs: Any) -> None:
        """Accumulate, save every step by rename, go on from the last save."""
        saved = context.scratch / "state"
        step, state = map(int, saved.read_text().split()) if saved.is_file() else (0, 0)
        while step < self.settings.steps:
            stall("step", step)
            state, step = (state * 31 + stream(context.seed, step).randrange(1000)) % 10**9, step + 1
            partial = saved.with_suffix(".new")
            partial.write_text(f"{step} {state}")
            partial.replace(saved)
            context.budget.spend(tokens=1)
        folder = outputs.file("weights", "weights")
        folder.mkdir(exist_ok=True)
        (folder / "a.txt").write_text(str(state))
        (folder / "b.txt").write_text("b")
        stall("written", 0)

    def figures(self, output: Opened) -> dict[str, Any]:
        """The state, read back; files are published by now and the manifest is not written."""
        stall("figures", 0)
        return {"state": int(output.file("weights").read_text())}


class Retired(Make):
    """A kind that is no longer wanted."""

    DEPRECATED = "it never worked; use pipeline_toys:Make"


class Other(Make):
    """Another provider for the same place in a recipe."""

    def run(self, context: Context, inputs: Any, outputs: Any) -> None:
        """One record."""
        outputs.shard("records", 0, [Instruction("o", "other", "t", "h", 0)])


def stall(where: str, number: int) -> None:
    """Die, or wait for a signal, at the place that the environment names, such as `kill:between:1`."""
    how, _, place = os.environ.get("TOY_STALL", "").partition(":")
    if place == f"{where}:{number}":
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "term":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
