"""What a stage is: settings, the outputs of other stages it reads, the outputs it writes, and how it is judged.

A stage gets everything it may use as arguments. It opens nothing on disk but its inputs, writes nothing but through
its outputs, and asks its context for models, seeds, budget and events.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rung.base.events import Events
from rung.base.fingerprint import plain
from rung.base.prices import Price, Tokens
from rung.pipeline.budget import BudgetSettings, Spend
from rung.records.manifest import Opened
from rung.records.shards import ShardInfo

if TYPE_CHECKING:
    from rung.pipeline.budget import Budget
    from rung.pipeline.job import Job

__all__ = [
    "Bill", "Context", "Estimate", "Executor", "KnownBy", "Models", "Outputs", "Shards", "Stage", "Terms", "Verdict",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gate's answer. `decided` is False when there were too few samples to say."""

    passed: bool
    reasons: tuple[str, ...] = ()
    decided: bool = True


@dataclass(frozen=True, slots=True)
class Terms:
    """What a recipe says to all its stages: its model, its caps, its prices by model name."""

    model: str
    budget: BudgetSettings
    prices: Mapping[str, Price]


@dataclass(frozen=True, slots=True)
class KnownBy:
    """What an output is known by: settings, and the model that made it where that is not the recipe's (as text).
    `bypasses` are what these settings skip on purpose."""

    settings: Mapping[str, Any]
    model: str = ""
    bypasses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bill:
    """Tokens that a provider will charge for; `price` stands before that of the recipe's table."""

    model: str
    tokens: Tokens
    price: Price | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a stage is expected to cost, and what that is based on (a pilot's rate, this machine's probe, a default).

    `money` is what comes on top of the machine's hours (reviews); what hosted calls cost follows from `bill`.
    `seconds_high` is the upper end of a range; 0 says that `seconds` is a single figure. `seconds` are those of all
    devices together; `num_shards` equal pieces of them can be made at once, which is what `wall_seconds` follows from
    when it is worked out.
    """

    seconds: float = 0.0
    tokens: float = 0.0
    money: float = 0.0
    basis: str = ""
    seconds_high: float = 0.0
    num_shards: int = 1
    wall_seconds: float = 0.0
    bill: Bill | None = None


class Models(Protocol):
    """Loads models for stages, one at a time: asking for another frees the last."""

    def load(self, source: str, adapter: Path | None = None, *, clean: bool = True, precision: str = "auto") -> Any:
        """A `rung.models.load.Loaded` for a source (`package:...`, `hf:...`, `gguf:...`), with an adapter on it, or
        filled from a file of all weights. `clean` false: it need not be a base model. `precision` is float32, bfloat16,
        or auto: what suits this machine."""

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

    def adopt(self, output: str, index: int, info: ShardInfo, source: Path | bytes) -> None:
        """Take a shard that another process made, after looking at its bytes."""

    def quarantine(self, output: str, index: int, causes: Sequence[str]) -> None:
        """Remember that shard `index` could not be made, and why; forgotten when it is made after all."""

    def file(self, name: str, role: str) -> Path:
        """A path to write a file to; it is published under `name` when the stage ends."""

    def note(self, section: str, values: Mapping[str, Any]) -> None:
        """Add to a section of the manifest: calibration, model, seeds, drops, figures."""


@dataclass(frozen=True)
class Shards:
    """Shards of `output` that are to be made, of `num_shards` in all; see `rung.pipeline.sharding.for_each_shard`."""

    output: str
    indices: tuple[int, ...]
    num_shards: int
    make_work: Callable[[], Callable[[int], None]]
    after: Callable[[int], None]
    expected: Spend

    @staticmethod
    def dearest(known: Spend, cost: Spend) -> Spend:
        """What to reserve for the next shard: of each kind of cost the most that was seen."""
        pairs = {name: max(getattr(known, name), getattr(cost, name)) for name in ("seconds", "tokens", "money")}
        return replace(known, **pairs)

    def tell(self, events: Events, outputs: Outputs) -> None:
        """How far the stage is, in shards."""
        events.progress(self.output, len(outputs.finished(self.output)), self.num_shards, "shards")


class Executor(Protocol):
    """Makes shards: in this process, in others, on other machines. Its settings are no part of any identity."""

    num_workers: int

    def run(self, shards: Shards, context: Context, outputs: Outputs) -> None:
        """Make `shards.indices`, call `shards.after` for each in this process, and raise what could not be made.

        Raises:
            BudgetSpent, Interrupted, StorageError: nothing more can be done now; what is finished stays.
            RungError: at least one shard failed; the others were made first.
        """


@dataclass(frozen=True)
class Context:
    """What the runner lends to a stage. `scratch` is a folder for checkpoints that survive an interruption of this
    very stage (same fingerprint) and are removed when it ends; a stop request is heard through the budget's methods,
    which raise `Interrupted` or `BudgetSpent`. `only` are the shards asked for (None: all); `job` is what workers of
    `executor` are told."""

    run: str
    name: str
    seed: int
    events: Events
    budget: Budget
    models: Models
    scratch: Path
    executor: Executor
    job: Job
    model_source: str = ""
    fingerprint: str = ""
    bypasses: tuple[str, ...] = field(default=())
    only: frozenset[int] | None = None


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

    def check_inputs(self, stages: Mapping[str, Stage]) -> None:
        """Refuse, before any work, stages that cannot give what this one reads; by input name.

        Raises:
            SettingsError: naming the setting, as `check` does.
        """
        return

    def files(self) -> dict[str, Path]:
        """Setting path -> file of the user's that it names. What such a file holds is part of the output's identity:
        an edited one is drift, like a changed setting."""
        return {}

    def check(self, terms: Terms) -> None:
        """Refuse, before any work, what these settings cannot do under the recipe's terms. A place is told as the
        path of the setting within the stage.

        Raises:
            SettingsError: naming it.
        """
        return

    def known_by(self) -> KnownBy:
        """What goes into the output's fingerprint: all settings, but for those that only say who does the work."""
        values = plain(self.settings)
        if isinstance(training := values.get("training"), dict):
            values["training"] = {key: value for key, value in training.items() if key != "devices"}
        return KnownBy(values)

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
