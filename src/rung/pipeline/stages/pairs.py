"""Preference pairs from gated data: rejected siblings first, for nothing, then negatives that the model writes.

Every chosen response is one that a critic let into the data; every rejected one is the model's own text. What is left
out keeps its reason. Lengths are watched, because preference training learns them before anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.datagen.negatives import Lent, MadeNegatives, NegativeSettings, make_negatives
from rung.datagen.pool import own_files
from rung.datagen.preferences import LengthSettings, PairSettings, best_of_n, lengths, pair_figures
from rung.engine.settings import EngineSettings
from rung.pipeline.stage import Context, Outputs, Stage, Verdict
from rung.pipeline.stages._critic import chosen_critic
from rung.pipeline.stages._model import open_engine
from rung.pipeline.training_gate import check_provenance
from rung.records.contracts import Completer
from rung.records.manifest import Opened
from rung.records.types import SftRecord
from rung.scoring.checks import Checks
from rung.scoring.verifiers.safe_completion import SafeCompletion

__all__ = ["Pairs"]


class PairsSettings(Settings):
    """What pairs are made from, which negatives are added, and what the result must meet."""

    data: str = Field(description="the data stage, one record per chosen response")
    siblings: PairSettings = Field(PairSettings(), description="pairs of a response with its rejected siblings")
    negatives: NegativeSettings = Field(NegativeSettings(), description="pairs with responses written to be worse")
    generator: str | dict[str, Any] = Field("hard_negatives", description="a part of datagen/generators")
    filters: tuple[str | dict[str, Any], ...] = Field(
        ("cleaning", "runaway", "garbage", "repetition"), description="parts of datagen/filters for written negatives"
    )
    calibration: str = Field("", description="the stage that measured the critics; empty: no critic judges negatives")
    critic_threshold: float | None = Field(None, ge=0, description="replaces the calibrated threshold")
    force_critic: str = Field("", description="a critic that judges whatever its calibration; recorded as a bypass")
    lengths: LengthSettings = Field(LengthSettings(), description="when the two sides' lengths drift apart")
    min_pairs: int = Field(20, ge=1, description="fewer pairs do not pass the gate")
    max_share_drift: float = Field(
        0.1, ge=0, le=1, description="most that a kind's share may miss the configured one by"
    )
    engine: EngineSettings = Field(
        EngineSettings(keep_logprobs=False, keep_entropies=False), description="slots and cache of the engine"
    )


class Pairs(Stage):
    """Pairs, the raw written negatives, and the siblings that made no pair."""

    Settings = PairsSettings
    version = 1
    outputs: Mapping[str, str] = {"pair": "pair", "candidate": "candidate", "drop": "drop"}

    def inputs(self) -> dict[str, str]:
        """The data, and the calibration when a critic judges negatives."""
        calibration = {"calibration": self.settings.calibration} if self.settings.calibration else {}
        return {"data": self.settings.data, **calibration}

    def files(self) -> dict[str, Path]:
        """The examples that negatives are written after, when they are the user's."""
        _, generator = part("datagen.generators", self.settings.generator, "pairs.generator")
        return own_files({"generator.examples": getattr(generator, "examples", "")})

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Negatives to write; unknown before there are data."""
        data = inputs.get("data")
        return None if data is None else data.count("sft") * self.settings.negatives.per_record

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Pair what there is, then let the model write what is missing."""
        data = inputs["data"]
        records: list[SftRecord] = check_provenance(data, "sft", context.bypasses)
        if 0 not in outputs.finished("pair"):
            siblings = list(data.records("candidate")) if data.manifest.shards.get("candidate") else []
            paired = best_of_n(records, siblings, self.settings.siblings)
            outputs.shard("drop", 0, paired.dropped)
            outputs.shard("pair", 0, paired.pairs)
        if self.settings.negatives.per_record and 1 not in outputs.finished("pair"):
            known = {(pair.chosen_source, pair.rejected) for pair in outputs.shard_records("pair", 0)}
            made = self._negatives(context, inputs, outputs, records, known)
            outputs.note("figures", {"shortfall": made.shortfall})
            outputs.shard("candidate", 0, made.candidates)
            outputs.shard("pair", 1, made.pairs({record.id: record for record in records}))
        if warning := lengths(outputs.records("pair"), self.settings.lengths).warning:
            context.events.log(warning, level="warning")
        context.budget.finish()

    def figures(self, output: Opened) -> dict[str, Any]:
        """Counts, shares, margins and lengths, recomputed from the pairs and from what was left out."""
        left_out = [f"{one.part}: {one.reason}" for one in output.records("drop")]
        left_out += [f"{one.part}: {one.reason}" for one in output.records("candidate") if one.outcome != "kept"]
        found = pair_figures(list(output.records("pair")), left_out, self.settings.lengths)
        return {"qc": plain(found)}

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """Enough pairs, the kinds in their shares, and two sides of comparable length."""
        found, settings, reasons = figures["qc"], self.settings, []
        if found["num_pairs"] < settings.min_pairs:
            reasons.append(f"{found['num_pairs']} pairs, at least {settings.min_pairs} are needed")
        total = sum(settings.negatives.shares.values())
        for kind, share in settings.negatives.shares.items() if settings.negatives.per_record else ():
            got = found["shares"].get(kind, 0.0)
            if abs(got - share / total) > settings.max_share_drift:
                reasons.append(f"share of {kind} is {got:.2f}, {share / total:.2f} was asked for")
        if found["lengths"]["ratio"] > settings.lengths.fail_ratio:
            reasons.append(f"{found['lengths']['warning']}, the limit is {settings.lengths.fail_ratio:g}")
        return Verdict(not reasons, tuple(reasons))

    def _negatives(
        self,
        context: Context,
        inputs: Mapping[str, Opened],
        outputs: Outputs,
        records: list[SftRecord],
        known: set[tuple[str, str]],
    ) -> MadeNegatives:
        engine = open_engine(context, outputs, self.settings.engine)
        kind, own = part("datagen.generators", self.settings.generator, f"{context.name}.generator")
        judged = "calibration" in inputs
        critic = chosen_critic(self.settings, inputs["calibration"], engine, outputs) if judged else None
        paid = 0

        def between_rounds(so_far: MadeNegatives) -> None:
            """Pay for the round that was, if there is room for another, and say how far it got."""
            nonlocal paid
            context.budget.spend(tokens=so_far.num_tokens - paid)
            paid = so_far.num_tokens
            wanted = round(self.settings.negatives.per_record * len(records))
            context.events.progress("negatives", len(so_far.kept()), wanted)

        made = make_negatives(
            kind(own, completer=engine),
            records,
            self._lent(context, engine, critic),
            self.settings.negatives,
            seed=derive(context.seed, "negatives"),
            known=known,
            between_rounds=between_rounds,
        )
        context.budget.finish(tokens=made.num_tokens - paid)
        return made

    def _lent(self, context: Context, engine: Completer, critic: Any) -> Lent:
        filters = []
        for spec in self.settings.filters:
            kind, own = part("datagen.filters", spec, f"{context.name}.filters")
            filters.append((spec if isinstance(spec, str) else str(spec["kind"]), kind(own)))
        refusals = SafeCompletion(SafeCompletion.Settings(stance="help"))
        return Lent(engine.count_tokens, refusals, Checks(), critic, filters)
