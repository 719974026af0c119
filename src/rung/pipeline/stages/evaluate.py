"""The tuned model on the held-out suite, compared item by item with the base conditions of the probe.

The baselines' answers are copied into this output, so that every figure of the comparison recomputes from it alone.
The release gate wants a significant improvement over each baseline and no regression on the named types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.base.errors import SettingsError
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.settings import Field, Settings
from rung.engine.settings import EngineSettings
from rung.evaluate.compare import compare
from rung.evaluate.release import ReleaseSettings, release
from rung.pipeline.stage import Context, Outputs, Stage, Verdict
from rung.pipeline.stages._answering import Asking, answer_shards, scorer_figures
from rung.pipeline.stages._model import open_engine
from rung.records.manifest import Opened

__all__ = ["Evaluate"]


class EvaluateSettings(Settings):
    """Which model, against what, judged how."""

    model: str = Field(description="the stage that made the model: trained it, or published it whole")
    label: str = Field("", description="tells this trained model from another in one comparison: 'dpo' is 'tuned:dpo'")
    against: tuple[str, ...] = Field(("probe.raw", "probe.framed"), description="baselines, as stage.output")
    suite: str | dict[str, Any] = Field("instruction_following", description="the same part as the probe's")
    max_new_tokens: int = Field(32, ge=1, le=4096, description="limit of an answer, the same as the probe's")
    shard_size: int = Field(160, ge=1, description="items answered and saved together")
    gate: ReleaseSettings = Field(ReleaseSettings(), description="what must hold for a release")
    engine: EngineSettings = Field(
        EngineSettings(keep_logprobs=False, keep_entropies=False), description="slots and cache of the engine"
    )


class Evaluate(Stage):
    """Answers under every condition, paired by item."""

    Settings = EvaluateSettings
    version = 1
    outputs: Mapping[str, str] = {"answer": "answer", "baseline": "answer", "item": "test_item"}

    def inputs(self) -> dict[str, str]:
        """The trained model and the stages that hold the baselines."""
        return {"trained": self.settings.model, **{f"against.{stage}": stage for stage, _ in self._baselines()}}

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Answers: every item once."""
        suite_class, suite_settings = part("evaluate.suites", self.settings.suite, "evaluate.suite")
        return len(suite_class(suite_settings).items())

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Copy the baselines, answer with the tuned model."""
        suite_class, suite_settings = part("evaluate.suites", self.settings.suite, "evaluate.suite")
        suite = suite_class(suite_settings)
        outputs.shard("item", 0, suite.items())
        for number, (stage, output) in enumerate(self._baselines()):
            self._check_alike(inputs[f"against.{stage}"], suite.version)
            outputs.shard("baseline", number, list(inputs[f"against.{stage}"].records(output)))
        engine = open_engine(context, outputs, self.settings.engine, inputs["trained"])
        outputs.note("figures", {"suite_version": suite.version})
        asked = Asking(context, "answer", self.settings.max_new_tokens, self.settings.shard_size)
        answer_shards(engine, suite.items(), self._condition(), outputs, asked)

    def figures(self, output: Opened) -> dict[str, Any]:
        """Every condition's rate with its interval, and every paired comparison, recomputed from the answers."""
        answers: dict[str, list[Any]] = {}
        for answer in (*output.records("baseline"), *output.records("answer")):
            answers.setdefault(answer.condition, []).append(answer)
        comparison = compare(answers, list(output.records("item")))
        return {
            "comparison": plain(comparison),
            "release": plain(release(comparison, self.settings.gate.model_copy(update={"tuned": self._condition()}))),
            "scorers": scorer_figures(answers[self._condition()]),
        }

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """The release rule's verdict; a result whose scorers disagree with their hand-labelled answers is none."""
        found, scorers = figures["release"], figures["scorers"]
        doubts = [f"scorers are unreliable: {reason}" for reason in scorers["reasons"]]
        return Verdict(found["passed"] and not doubts, (*found["reasons"], *doubts), found["decided"])

    def _condition(self) -> str:
        return f"tuned:{self.settings.label}" if self.settings.label else "tuned"

    def _baselines(self) -> list[tuple[str, str]]:
        """(stage, output) of every baseline."""
        found = []
        for name in self.settings.against:
            stage, dot, output = name.partition(".")
            if not dot:
                raise SettingsError(f"'{name}' names no output", place="evaluate.against", hint="stage.output")
            found.append((stage, output))
        return found

    def _check_alike(self, probe: Opened, suite_version: str) -> None:
        """A baseline answered under other limits or on another suite would not be a fair one."""
        stored = probe.manifest
        for name, theirs, ours in (
            ("max_new_tokens", stored.settings["max_new_tokens"], self.settings.max_new_tokens),
            ("suite", stored.figures.get("suite_version"), suite_version),
        ):
            if theirs != ours:
                raise SettingsError(
                    f"{stored.name} has {name} {theirs}, this stage {ours}",
                    place=f"evaluate.{name}",
                    hint="make them equal",
                )
