"""Training data that the base model writes and judges itself: instructions, responses, cleaning, critic, QC.

`count` means kept records. A pilot and a large run are this one stage: the large run names its pilot in
`settings_from`, takes every setting from that manifest and cannot start unless the pilot's QC recomputes and passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from rung.base.errors import GateFailed, SettingsError
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.seeds import derive
from rung.base.settings import Field, validate
from rung.datagen.best_of_n import BestOfNRule
from rung.datagen.merge import shard_sizes
from rung.datagen.pool import load_pool, own_files
from rung.datagen.progress import ProgressiveQc, ProgressiveQcSettings
from rung.datagen.qc import Thresholds
from rung.datagen.validation import ValidationSettings, load_labelled, validate_heuristics
from rung.datagen.validation import advisory as weak_heuristics
from rung.engine.settings import EngineSettings
from rung.pipeline.estimate import shard_cost
from rung.pipeline.sharding import for_each_shard
from rung.pipeline.stage import Context, Estimate, KnownBy, Outputs, Stage, Terms, Verdict
from rung.pipeline.stages._completer import (
    GeneratingSettings,
    bill_for,
    check_completer,
    judged_by_same,
    known_by,
    open_outside,
    usage,
)
from rung.pipeline.stages._critic import chosen_critic
from rung.pipeline.stages._model import model_facts, open_engine
from rung.pipeline.stages._pilot import Pilot, best_of_n_decision, pilot_estimate
from rung.pipeline.stages._provenance import record_metadata
from rung.pipeline.stages._qc import NOT_JUDGED, data_figures, data_verdict
from rung.pipeline.stages._shard import FIRST_GUESS, Made, Parts, make_shard
from rung.records.manifest import Opened

__all__ = ["Bootstrap"]

_OWN = ("count", "shards", "settings_from", "calibration", "max_rounds", "num_candidates", "best_of_n")


class BootstrapSettings(GeneratingSettings):
    """What is made, how much of it, and which parts make it."""

    count: int = Field(120, ge=1, description="records to keep, over all shards")
    shards: int = Field(1, ge=1, description="pieces, each with its own seed and target")
    settings_from: str = Field("", description="a finished pilot whose settings are taken in place of this stage's")
    calibration: str = Field("calibrate", description="the stage that measured the critics")
    num_candidates: Literal["auto"] | Annotated[int, pydantic.Field(ge=0, le=64)] = Field(
        0, description="responses per instruction; 0: as `responses` says; auto: by `best_of_n` from the pilot"
    )
    best_of_n: BestOfNRule = Field(BestOfNRule(), description="the rule that `num_candidates: auto` decides by")
    max_rounds: int = Field(12, ge=1, description="rounds of a shard before a shortfall is stated")
    suite: str | dict[str, Any] = Field("instruction_following", description="held-out set that data keep clear of")
    pool: str = Field("few_shot_pool", description="few-shot examples: a shipped pool, or a YAML file by path")
    instructions: str | dict[str, Any] = Field("diverse_instructions", description="a part of datagen/generators")
    responses: str | dict[str, Any] = Field("responses", description="a part of datagen/generators")
    instruction_filters: tuple[str | dict[str, Any], ...] = Field(
        ("instruction_sanity", "garbage", "near_duplicates", "held_out"), description="parts of datagen/filters"
    )
    response_filters: tuple[str | dict[str, Any], ...] = Field(
        ("cleaning", "runaway", "garbage", "repetition", "echo", "incomplete", "scope", "held_out"),
        description="parts of datagen/filters, in order",
    )
    advisory: tuple[str, ...] = Field((), description="filters that flag what they find and drop nothing")
    heuristics: ValidationSettings = Field(
        ValidationSettings(), description="what a heuristic must reach on labelled examples before its filter may drop"
    )
    critic_threshold: float | None = Field(None, ge=0, description="replaces the calibrated threshold")
    force_critic: str = Field("", description="a critic that gates whatever its calibration; recorded as a bypass")
    progress: ProgressiveQcSettings = Field(ProgressiveQcSettings(), description="running QC and early abort")
    thresholds: Thresholds = Field(Thresholds(), description="what the finished data must meet")
    engine: EngineSettings = Field(EngineSettings(keep_entropies=False), description="slots and cache of the engine")

    @pydantic.model_validator(mode="after")
    def _auto_needs_a_pilot(self) -> BootstrapSettings:
        if self.num_candidates == "auto" and not self.settings_from:
            raise ValueError("num_candidates: auto is decided from a pilot: name it in settings_from")
        return self


class Bootstrap(Stage):
    """Instructions, candidates, training records and drops, shard by shard."""

    Settings = BootstrapSettings
    version = 1
    outputs: Mapping[str, str] = {"instruction": "instruction", "candidate": "candidate", "sft": "sft", "drop": "drop"}

    def inputs(self) -> dict[str, str]:
        """The calibration, and the pilot when there is one."""
        pilot = {"pilot": self.settings.settings_from} if self.settings.settings_from else {}
        return {"calibration": self.settings.calibration, **pilot}

    def files(self) -> dict[str, Path]:
        """The pool and the topics, when they are the user's; a pilot's are part of the pilot's identity."""
        if self.settings.settings_from:
            return {}
        _, instructions = part("datagen.generators", self.settings.instructions, "bootstrap.instructions")
        topics = getattr(instructions, "topics", "")
        return own_files({"pool": self.settings.pool, "instructions.topics": topics})

    def check(self, terms: Terms) -> None:
        """The completer must be one that may write data, at a price that is known."""
        check_completer(self.settings, terms)

    def known_by(self) -> KnownBy:
        """The completer by its model."""
        return known_by(self.settings)

    def derived(self, inputs: Mapping[str, Opened]) -> dict[str, tuple[Any, str]]:
        """Everything but the amount, from the pilot's manifest; how many responses, from the rule or the setting."""
        pilot, number = inputs.get("pilot"), self.settings.num_candidates
        if pilot is None:
            said = plain(self.settings)["responses"]
            known = isinstance(number, int) and number and not self.settings.settings_from
            return {"responses": (_with_candidates(said, number), "from num_candidates")} if known else {}
        origin = f"from {pilot.manifest.name}"
        own = {*_OWN, "completer"} if self.settings.completer else _OWN
        taken = {key: (value, origin) for key, value in pilot.manifest.settings.items() if key not in own}
        if number == "auto":
            found = best_of_n_decision(pilot, self.settings.best_of_n)
            number, why = found.num_candidates, "; ".join(found.reasons)
            origin = f"best-of-N rule on {pilot.manifest.name}: {why}"
        if number:
            taken["responses"] = (_with_candidates(taken["responses"][0], number), origin)
        return taken

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Records to keep."""
        return float(self.settings.count)

    def estimate(self, inputs: Mapping[str, Opened]) -> Estimate:
        """From the pilot's own rate, when there is a pilot."""
        if "pilot" not in inputs:
            return Estimate(basis=super().estimate(inputs).basis)
        settings = self._resolved(inputs)
        found = pilot_estimate(inputs["pilot"], settings.count, settings.shards, _num_candidates(settings))
        return found if found.bill is None else replace(found, bill=bill_for(settings, found.bill.tokens))

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Make every shard that is not finished; running QC looks at all of them as they come."""
        settings = self._resolved(inputs)
        sizes = shard_sizes(settings.count, settings.shards)
        kept_per_line = Pilot.of(inputs["pilot"]).kept_per_line if "pilot" in inputs else FIRST_GUESS
        progress = ProgressiveQc(settings.progress, settings.thresholds, {"min_instruction_acceptance": NOT_JUDGED})
        seeds = {f"shard_{index}": derive(context.seed, "shard", index) for index in range(settings.shards)}
        outputs.note("seeds", seeds)
        if settings.num_candidates == "auto":
            outputs.note("figures", {"best_of_n": plain(best_of_n_decision(inputs["pilot"], settings.best_of_n))})
        for index in outputs.finished("sft"):
            _look(progress, _shard_of(outputs, index), context, settings)

        def make_work() -> Callable[[int], None]:
            """Load the model and choose the critic: once in every process that makes shards."""
            judge = None
            if measured := judged_by_same(settings, inputs["calibration"]):
                other = open_outside(context, measured)
                judge = other.completer if other else open_engine(context, outputs, settings.engine)
            outside = open_outside(context, settings)
            engine = outside.completer if outside else open_engine(context, outputs, settings.engine)
            facts = outside.facts if outside else model_facts(context.models.load(context.model_source))
            if outside:
                outputs.note("model", facts)
            critic = chosen_critic(settings, inputs["calibration"], judge or engine, outputs)
            advisory = _advisory_filters(settings, outputs)

            def work(index: int) -> None:
                """Make and save one shard."""
                made_with, before = _parts(settings, engine, critic, context, facts), usage(engine)
                parts = replace(made_with, advisory=advisory, kept_per_line=kept_per_line)
                seed = seeds[f"shard_{index}"]
                made = make_shard(parts, sizes[index], seed, settings.max_rounds, lambda so_far: context.budget.poll())
                if charged := usage(engine).less(before):
                    outputs.note("figures", {f"usage_shard_{index}": plain(charged)})
                _save(outputs, index, made, {**parts.metadata, "shard": index, "shard_seed": seed})
                context.budget.spend(tokens=made.num_tokens)

            return work

        def look(index: int) -> None:
            """Running QC with one more shard."""
            _look(progress, _shard_of(outputs, index), context, settings)

        expected = shard_cost(self.estimate(inputs), context.budget.settings.price_per_hour, context.job.prices)
        indices = range(settings.shards)
        for_each_shard(context, outputs, "sft", indices, make_work, after=look, expected=expected)

    def figures(self, output: Opened) -> dict[str, Any]:
        """QC recomputed from all stored records, the verdict, and how many records are missing."""
        return data_figures(
            output, Thresholds.model_validate(output.manifest.settings["thresholds"]), self.settings.count
        )

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """The QC verdict, and no shortfall."""
        return data_verdict(figures)

    def _resolved(self, inputs: Mapping[str, Opened]) -> BootstrapSettings:
        """These settings, or the pilot's with this stage's amount and number of responses."""
        taken, said = {key: value for key, (value, _) in self.derived(inputs).items()}, plain(self.settings)
        own = {key: said[key] for key in (*_OWN, "completer") if key in said} if "pilot" in inputs else {}
        found = validate(BootstrapSettings, {**({} if own else said), **taken, **own}, "bootstrap")
        if "pilot" in inputs:
            _check_same_model(found, inputs["pilot"])
        return found


def _parts(settings: BootstrapSettings, engine: Any, critic: Any, context: Context, facts: Mapping[str, Any]) -> Parts:
    pool = load_pool(settings.pool)
    suite_class, suite_settings = part("evaluate.suites", settings.suite, f"{context.name}.suite")
    held_out = [item.instruction for item in suite_class(suite_settings).items()]
    made: dict[str, Any] = {}
    for name in ("instructions", "responses"):
        kind, own = part("datagen.generators", getattr(settings, name), f"{context.name}.{name}")
        made[name] = kind(own, completer=engine, pool=pool)
    return Parts(
        completer=engine,
        instructions=made["instructions"],
        responses=made["responses"],
        instruction_filters=_filters(settings.instruction_filters, held_out, f"{context.name}.instruction_filters"),
        response_filters=_filters(settings.response_filters, held_out, f"{context.name}.response_filters"),
        critic=critic,
        instruction_critic=None,
        metadata=record_metadata(context, facts, settings),
    )


def _check_same_model(settings: BootstrapSettings, pilot: Opened) -> None:
    """A pilot speaks for a large run of the same model only."""
    theirs = GeneratingSettings(completer=pilot.manifest.settings.get("completer", ""))
    if known_by(theirs).model != known_by(settings).model:
        raise SettingsError(
            f"the pilot '{pilot.manifest.name}' was written by another model than this completer's",
            place="bootstrap.completer",
            hint="leave it out: the pilot's is taken; or make another pilot",
        )


def _with_candidates(responses: str | dict[str, Any], count: int) -> dict[str, Any]:
    """The same part with another number of responses per instruction."""
    return {**({"kind": responses} if isinstance(responses, str) else responses), "num_candidates": count}


def _num_candidates(settings: BootstrapSettings) -> int:
    """Responses per instruction, as the part takes them."""
    _, own = part("datagen.generators", settings.responses, "responses")
    return int(getattr(own, "num_candidates", 1))


def _advisory_filters(settings: BootstrapSettings, outputs: Outputs) -> frozenset[str]:
    """Filters that only flag: those the recipe names, and those whose heuristic fails its labelled examples."""
    qualities = validate_heuristics(load_labelled())
    weak = weak_heuristics(qualities, settings.heuristics)
    outputs.note("calibration", {"heuristics": plain(qualities), "advisory": weak})
    return frozenset([*settings.advisory, *("instruction_sanity" if name == "unfit" else name for name in weak)])


def _filters(specs: tuple[str | dict[str, Any], ...], held_out: list[str], place: str) -> list[tuple[str, Any]]:
    """Fresh filters by name; the one that keeps clear of held-out texts is given them."""
    found = []
    for spec in specs:
        kind, settings = part("datagen.filters", spec, place)
        name = spec if isinstance(spec, str) else str(spec["kind"])
        found.append((name, kind(settings, held_out=held_out) if name == "held_out" else kind(settings)))
    return found


def _save(outputs: Outputs, index: int, made: Made, metadata: Mapping[str, Any]) -> None:
    """Write a shard's four outputs, the one that counts as finished last."""
    written: dict[str, list[Any]] = {
        "instruction": made.instructions,
        "candidate": made.candidates,
        "drop": made.dropped,
        "sft": made.records(metadata),
    }
    for output, records in written.items():
        outputs.shard(output, index, records)


def _shard_of(outputs: Outputs, index: int) -> Made:
    """A finished shard as it was made."""
    made = Made()
    made.instructions = outputs.shard_records("instruction", index)
    made.candidates = outputs.shard_records("candidate", index)
    return made


def _look(progress: ProgressiveQc, made: Made, context: Context, settings: BootstrapSettings) -> None:
    """Running QC figures into the log; with evidence of failure and `abort`, the end."""
    for checkpoint in progress.add(made.instructions, made.candidates):
        found = checkpoint.figures
        context.events.log(
            f"running QC after {checkpoint.num_generated}: kept {found.counts['kept']}, "
            f"accepted {found.pair_acceptance.rate.value or 0:.0%}, limit hits {found.limit.value or 0:.1%}",
            qc=plain(found),
        )
        if checkpoint.abort and settings.progress.abort:
            raise GateFailed(
                f"running QC after {checkpoint.num_generated} responses: {'; '.join(checkpoint.abort)}",
                place=context.name,
                hint="look at the flags: rung inspect; the limits are in thresholds",
            )
