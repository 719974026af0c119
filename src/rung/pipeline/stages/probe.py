"""Show the gap before anything is spent: the base model answers the held-out suite raw and in the frame.

Its gate refuses to go on when there is nothing left to learn, or less than this suite can show (spec item 104): the
smallest detectable effect is stated here, before any training. What is possible is measured too: the reference answers
go through the same scorers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.settings import Field, Settings, unsaid
from rung.engine.settings import EngineSettings
from rung.evaluate.release import GapSettings, gap
from rung.evaluate.statistics import wilson
from rung.pipeline.stage import Context, Outputs, Stage, Verdict
from rung.pipeline.stages._answering import Asking, answer_shards, reference_answers
from rung.pipeline.stages._model import open_engine
from rung.records.manifest import Opened

__all__ = ["Probe"]


class ProbeSettings(Settings):
    """Who is asked what, and how long an answer may be."""

    model: str = Field(
        "",
        exclude_if=unsaid(),
        description="the stage whose model is asked, such as pretrain; empty: the recipe's model",
    )
    suite: str | dict[str, Any] = Field("instruction_following", description="a part of evaluate/suites")
    max_new_tokens: int = Field(32, ge=1, le=4096, description="limit of an answer, the same for every condition")
    shard_size: int = Field(160, ge=1, description="items answered and saved together")
    gap: GapSettings = Field(GapSettings(), description="when training is worth starting")
    engine: EngineSettings = Field(
        EngineSettings(keep_logprobs=False, keep_entropies=False), description="slots and cache of the engine"
    )


class Probe(Stage):
    """Answers of the untuned model, one output per condition."""

    Settings = ProbeSettings
    version = 1
    outputs: Mapping[str, str] = {"raw": "answer", "framed": "answer", "reference": "answer", "item": "test_item"}

    def inputs(self) -> dict[str, str]:
        """The stage with the model, where one is named."""
        return {"made": self.settings.model} if self.settings.model else {}

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Answers: every item under both conditions."""
        suite_class, suite_settings = part("evaluate.suites", self.settings.suite, "probe.suite")
        return 2 * len(suite_class(suite_settings).items())

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Answer the suite under each condition."""
        suite_class, suite_settings = part("evaluate.suites", self.settings.suite, f"{context.name}.suite")
        suite = suite_class(suite_settings)
        outputs.note("figures", {"suite_version": suite.version})
        outputs.shard("item", 0, suite.items())
        outputs.shard("reference", 0, reference_answers(suite.items()))
        engine = open_engine(context, outputs, self.settings.engine, inputs.get("made"))
        for condition in ("raw", "framed"):
            asked = Asking(context, condition, self.settings.max_new_tokens, self.settings.shard_size)
            answer_shards(engine, suite.items(), condition, outputs, asked)

    def figures(self, output: Opened) -> dict[str, Any]:
        """Pass rates with Wilson's interval, by type, what is possible, and the decision about the gap."""
        found: dict[str, Any] = {}
        rates = {}
        for condition in ("raw", "framed", "reference"):
            answers = list(output.records(condition))
            rates[condition] = wilson(sum(answer.passed for answer in answers), len(answers))
            by_type = Counter(answer.type for answer in answers if answer.passed)
            totals = Counter(answer.type for answer in answers)
            found[condition] = {
                "overall": plain(rates[condition]),
                "by_type": {kind: plain(wilson(by_type[kind], n)) for kind, n in sorted(totals.items())},
            }
        base = {name: rate for name, rate in rates.items() if name != "reference"}
        found["gap"] = plain(gap(base, rates["reference"], self.settings.gap))
        return found

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """Refuse when there is nothing to gain, or nothing that this suite could show."""
        found = figures["gap"]
        return Verdict(found["decision"] == "train", tuple(found["reasons"]))
