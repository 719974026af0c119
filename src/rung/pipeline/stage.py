"""What a stage is: settings, the outputs of other stages it reads, the outputs it writes, and how it is judged.

A stage gets everything it may use as arguments. It opens nothing on disk but its inputs, writes nothing but through
its outputs, and asks its context for models, seeds, budget and events.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rung.base.events import Events
from rung.records.manifest import Opened

if TYPE_CHECKING:
    from rung.pipeline.budget import Budget

__all__ = ["Context", "Estimate", "Models", "Outputs", "Stage", "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gate's answer. `decided` is False when there were too few samples to say."""

    passed: bool
    reasons: tuple[str, ...] = ()
    decided: bool = True


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a stage is expected to cost, and what that is based on (a pilot's rate, this machine's probe, a default).

    `money` is what comes on top of the machine's hours (reviews, hosted calls). `seconds_high` is the upper end of a
    range; 0 says that `seconds` is a single figure.
    """

    seconds: float = 0.0
    tokens: float = 0.0
    money: float = 0.0
    basis: str = ""
    seconds_high: float = 0.0


class Models(Protocol):
    """Loads models for stages, one at a time: asking for another frees the last."""

    def load(self, source: str, adapter: Path | None = None) -> Any:
        """A `rung.models.load.Loaded` for a source (`package:...`, `hf:...`, `gguf:...`), with a LoRA adapter on it."""

    def release(self) -> None:
        """Free what is loaded."""


class Outputs(Protocol):
    """Typed writers of one stage. Nothing is visible under its final name before it is whole."""

    def shard(self, output: str, index: int, records: Sequence[Any]) -> None:
        """Write shard `index` of `output`; a shard that is already there and whole may not be written again."""

    def finished(self, output: str) -> list[int]:
        """Indices of the shards of `output` that are on disk and hash to what was recorded: where a resume goes on."""

    def records(self, output: str) -> list[Any]:
        """All records of the finished shards of `output`, in index order."""

    def shard_records(self, output: str, index: int) -> list[Any]:
        """Records of one finished shard."""

    def file(self, name: str, role: str) -> Path:
        """A path to write a file to; it is published under `name` when the stage ends."""

    def note(self, section: str, values: Mapping[str, Any]) -> None:
        """Add to a section of the manifest: calibration, model, seeds, drops, figures."""


@dataclass(frozen=True)
class Context:
    """What the runner lends to a stage. `scratch` is a folder for checkpoints that survive an interruption of this
    very stage (same fingerprint) and are removed when it ends; `stop_requested()` is polled between pieces of work
    through `budget.spend`, which raises `Interrupted` or `BudgetSpent`."""

    run: str
    name: str
    seed: int
    events: Events
    budget: Budget
    models: Models
    scratch: Path
    model_source: str = ""
    fingerprint: str = ""
    bypasses: tuple[str, ...] = field(default=())


class Stage(ABC):
    """One step of a recipe. Subclasses are one page of wiring in `pipeline/stages/<kind>.py`.

    `version` is raised by hand when the same settings come to mean something else. `outputs` maps output names to
    record types. A stage that never looks at the recipe's model says so with `uses_model = False`: another model is
    then no reason to run it again, and its context names none. `DEPRECATED = "why; use X"` (on the class, or in the
    module) refuses every recipe that still names the kind.
    """

    Settings: type[Any]
    version: ClassVar[int] = 1
    uses_model: ClassVar[bool] = True
    outputs: Mapping[str, str] = {}

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def inputs(self) -> dict[str, str]:
        """Input name -> name of the stage in the recipe whose output it is."""
        return {}

    def estimate(self, inputs: Mapping[str, Opened]) -> Estimate:
        """Expected cost, from the inputs that are finished already and this machine's measured rates."""
        return Estimate(basis="no estimate for this kind of stage")

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """How much work there is, in whatever the stage's cost grows with: answers, records, tokens. From it and the
        rate of the last time comes the estimate; None when it cannot be known yet."""
        return None

    def derived(self, inputs: Mapping[str, Opened]) -> dict[str, tuple[Any, str]]:
        """Settings that follow from inputs instead of the recipe, as setting path -> (value, origin), such as
        `{"temperature": (0.33, "derived from pilot")}`. Plan shows them and the manifest holds them; `inputs` may lack
        those that are not finished yet."""
        return {}

    @abstractmethod
    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Do the work. Interrupted and called again, it goes on from `outputs.finished` and `context.scratch`."""

    def figures(self, output: Opened) -> dict[str, Any]:
        """Recompute, from the records on disk alone, every figure that the gate looks at."""
        return {}

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """Decide from recomputed figures whether the next stage may use the output."""
        return Verdict(True)
