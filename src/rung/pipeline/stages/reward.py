"""Training of a reward model: from preference pairs, labelled attributes, or solutions with labelled steps.

Prompts are parted by hash: most are trained on, some set the model's probabilities right, some decide about it. What is
published is the head with what must be known to read it, and the adapter where one was trained. The gate looks at
readings of prompts that nothing was fitted to: telling better from worse must lie above chance with its whole interval,
and for attributes saying the mean must be beaten. `_reward_reading.open_reward_model` gives the model to later stages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from rung.base.errors import DataError
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.datagen.labelled_set import LabelledSet
from rung.pipeline.stage import Context, Outputs, Stage, Verdict
from rung.pipeline.stages._model import model_facts, narrow_figures, room, save_trained
from rung.pipeline.stages._reward_figures import attribute_figures, pair_figures, ranking_figures
from rung.pipeline.stages._reward_reading import HEAD, calibrated, readings_of
from rung.pipeline.stages._reward_sets import Parts, PartsSettings, Scales, part_by_prompt, training_data
from rung.pipeline.training_gate import check_provenance
from rung.records.manifest import Opened
from rung.train.settings import AdapterSettings, RewardSettings

__all__ = ["Reward"]


class RewardStageSettings(Settings):
    """What is learnt from what, by which weights, and what must come of it."""

    data: str = Field("", description="a stage whose pairs are learnt from; empty: `source` says")
    source: str | dict[str, Any] = Field("", description="a part of datagen/labelled; empty: `data` says")
    parts: PartsSettings = Field(PartsSettings(), description="which prompts are kept for what")
    body: Literal["frozen", "adapter"] = Field("frozen", description="whether the model below the head is trained too")
    adapter: AdapterSettings = Field(AdapterSettings(), description="the adapter, where one is trained")
    training: RewardSettings = Field(RewardSettings(), description="objective and head; how long, how fast")
    min_accuracy: float = Field(0.5, ge=0, lt=1, description="what the interval of held-out accuracy must lie above")
    min_held_out: int = Field(20, ge=1, description="fewer held-out pairs, answers or prompts decide nothing")

    @pydantic.model_validator(mode="after")
    def _one_origin(self) -> RewardStageSettings:
        if bool(self.data) == bool(self.source):
            raise ValueError("name either data (a stage) or source (a part of datagen/labelled)")
        if self.adapter.kind == "none":
            raise ValueError("a reward model trains its head, or an adapter and its head, not every weight")
        if self.body == "frozen" and self.training.fp8 != "no":
            raise ValueError("training.fp8 is for a body that is trained: set body: adapter, or leave it out")
        return self


class Reward(Stage):
    """A head (and an adapter), and what they say of held-out pairs and answers."""

    Settings = RewardStageSettings
    version = 1
    outputs: Mapping[str, str] = {"reward": "pair_reward", "reading": "reward_reading"}

    def inputs(self) -> dict[str, str]:
        """The stage with the pairs, where one is named."""
        return {"data": self.settings.data} if self.settings.data else {}

    def files(self) -> dict[str, Path]:
        """The file of labels, when there is one."""
        name = self.settings.source.get("file") if isinstance(self.settings.source, dict) else None
        return {"source.file": Path(name)} if name else {}

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Response tokens of both sides, once per epoch where the body is trained; unknown for other sources."""
        data = inputs.get("data")
        if data is None:
            return None
        tokens = sum(max(0, p.num_chosen_tokens) + max(0, p.num_rejected_tokens) for p in data.records("pair"))
        return float(tokens * (self.settings.training.epochs if self.settings.body == "adapter" else 1))

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Part the prompts, train, calibrate, read what was held out, publish."""
        parts = part_by_prompt(self._set(context, inputs), self.settings.parts)
        kind, own = room("base.lookup").part("train.objectives", self.settings.training.objective, "training.objective")
        objective = kind(own)
        loaded = context.models.load(context.model_source)
        outputs.note("model", model_facts(loaded))
        data, scales = training_data(loaded.tokenizer, parts.train, objective)
        result, unchanged = self._trained(context, loaded, data, objective)
        reader = self._reader(loaded, data, scales)
        reader.facts = calibrated(reader, parts.calibration, objective)
        found = readings_of(reader, parts.test, objective)
        outputs.shard("reward", 0, found.pairs)
        outputs.shard("reading", 0, found.answers)
        self._save(context, outputs, loaded.network, reader.facts)
        counts = {"num_unread": found.num_unread, "body_unchanged": unchanged, "levels": list(reader.levels)}
        outputs.note("figures", {**_figures(result), **counts, "facts": plain(reader.facts), "parts": _sizes(parts)})
        context.models.release()

    def figures(self, output: Opened) -> dict[str, Any]:
        """Accuracy, calibration, length bias, errors and coverage, recomputed from the readings."""
        noted, readings = output.manifest.figures, list(output.records("reading"))
        facts = noted["facts"]
        means = dict(zip(facts["attributes"], facts["means"], strict=False))
        return {
            "pairs": pair_figures(list(output.records("reward"))),
            "attributes": attribute_figures(readings, means, noted["levels"]),
            "ranking": ranking_figures(readings),
            **{key: noted[key] for key in ("first_loss", "final_loss", "body_unchanged")},
        }

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """See the module; too few held-out pairs, answers or prompts decide nothing."""
        reasons = [] if math.isfinite(figures["final_loss"]) else ["the loss is not finite"]
        if not figures["body_unchanged"]:
            reasons.append("the frozen body changed during training")
        judged = _judged(figures)
        few = [f"{name}: {n} to judge by" for name, n, _, _ in judged if n < self.settings.min_held_out]
        if not reasons and (few or not judged):
            text = f"{'; '.join(few) or 'nothing was held out'}, {self.settings.min_held_out} are needed to decide"
            return Verdict(False, (text,), decided=False)
        limit = self.settings.min_accuracy
        reasons += [
            f"{name}: accuracy is {rate:.2f}, at least {low:.2f}: not over {limit:g}"
            for name, _, rate, low in judged
            if low <= limit
        ]
        for name, row in figures["attributes"].items():
            gain = row["against_mean"]["gain"]
            if self._weight(name) and gain["interval"]["low"] <= 0:
                reasons.append(f"{name}: the error is not surely under that of saying the mean")
        return Verdict(not reasons, tuple(reasons))

    def _weight(self, attribute: str) -> float:
        spec = self.settings.training.objective
        weights = spec.get("weights", {}) if isinstance(spec, dict) else {}
        return float(weights.get(attribute, 1.0))

    def _set(self, context: Context, inputs: Mapping[str, Opened]) -> LabelledSet:
        if self.settings.data:
            return LabelledSet(pairs=tuple(check_provenance(inputs["data"], "pair", context.bypasses)))
        kind, own = part("datagen.labelled", self.settings.source, f"{context.name}.source")
        found: LabelledSet = kind(own).make()
        if not (found.pairs or found.answers or found.solutions):
            raise DataError("the source has nothing labelled", place=f"{context.name}.source")
        return found

    def _trained(self, context: Context, loaded: Any, data: Any, objective: Any) -> tuple[Any, bool]:
        """Head and adapter put on and trained; the result, and whether the body below is what it was."""
        adapters, heads, network = room("train.adapters"), room("models.head"), loaded.network
        if self.settings.body == "adapter":
            made = adapters.prepare(network, self.settings.adapter, derive(context.seed, "adapter"))
            if made.degraded:
                context.events.degraded("4-bit base", made.degraded)
        before = adapters.base_hash(network)
        seed, num_outputs = derive(context.seed, "head"), objective.num_outputs(len(data.attributes))
        training = self.settings.training.model_copy(update={"seed": derive(context.seed, "order")})
        heads.attach_head(network, heads.build_head(training.head, network.shape.width, num_outputs, seed))
        result = room("train.rewards").train_reward(
            network,
            loaded.tokenizer,
            data,
            training,
            events=context.events,
            scratch=context.scratch,
            on_step=lambda num_tokens: context.budget.spend(tokens=num_tokens),
        )
        head = heads.take_off(network)
        unchanged = adapters.base_hash(network) == before
        heads.attach_head(network, head)
        return result, unchanged

    def _reader(self, loaded: Any, data: Any, scales: Scales | None) -> Any:
        reading, training = room("train.reward_reader"), self.settings.training
        facts = reading.RewardFacts(
            objective=training.objective,
            attributes=data.attributes,
            means=scales.means if scales else (),
            deviations=scales.deviations if scales else (),
            max_tokens=training.max_tokens,
        )
        return reading.RewardReader(loaded.network, loaded.tokenizer, facts, precision=training.precision)

    def _save(self, context: Context, outputs: Outputs, network: Any, facts: Any) -> None:
        heads = room("models.head")
        folder = outputs.file(HEAD, HEAD)
        folder.mkdir(parents=True, exist_ok=True)
        heads.save_head(heads.take_off(network), self.settings.training.head, facts, folder)
        if self.settings.body == "adapter":
            save_trained(network, outputs, whole=False)


def _judged(figures: Mapping[str, Any]) -> list[tuple[str, int, float, float]]:
    """(what, how many to judge by, rate, lower end) of every accuracy that the gate looks at."""
    found = []
    if figures["pairs"]:
        accuracy = figures["pairs"]["accuracy"]
        found.append(("pairs", accuracy["n"], accuracy["rate"], accuracy["interval"]["low"]))
    for name, row in figures["attributes"].items():
        accuracy = row["accuracy"]
        found.append((name, row["n"], accuracy["rate"], accuracy["interval"]["low"]))
    if figures["ranking"]:
        row = next(iter(figures["ranking"].values()))
        found.append(("ranked answers", row["num_prompts"], row["rate"], row["low"]))
    return found


def _sizes(parts: Parts) -> dict[str, dict[str, int]]:
    return {
        name: {"pairs": len(one.pairs), "answers": len(one.answers), "solutions": len(one.solutions)}
        for name, one in (("train", parts.train), ("calibration", parts.calibration), ("test", parts.test))
    }


def _figures(result: Any) -> dict[str, Any]:
    return {
        "num_steps": result.num_steps,
        "final_step": result.final_step,
        "stopped_early": result.stopped_early,
        **narrow_figures(result),
        "first_loss": result.first_loss,
        "final_loss": result.final_loss,
        "num_tokens": result.num_tokens,
        "data": plain(result.data),
        "curves": {"train_loss": plain(result.losses), "held_out_loss": plain(result.validation)},
    }
