"""Preference training on gated pairs, from what a stage trained and with that model as the frozen reference.

The adapter of the stage named by `model` stays on the network, frozen; a fresh one over it is trained. The reference is
therefore in memory once, as the network's lower part. What is published is one adapter, the sum of both, for the base
model; where every weight was trained before, the fresh one is merged into them. Held-out pairs are scored at the end
and stored, and the gate recomputes their accuracy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rung.base.fingerprint import plain
from rung.base.proportions import wilson_interval
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.engine.settings import EngineSettings
from rung.pipeline.stage import Context, Outputs, Stage, Verdict
from rung.pipeline.stages._model import narrow_figures, polling, room
from rung.pipeline.stages._tuning import open_tuning
from rung.pipeline.training_gate import check_provenance
from rung.records.chat.frame import Frame
from rung.records.contracts import Request, Sampling
from rung.records.manifest import Opened
from rung.records.packing import Example
from rung.records.types import PairReward, PreferencePair
from rung.train.settings import AdapterSettings, PreferenceSettings, StackSettings

__all__ = ["Dpo"]


class DpoStageSettings(Settings):
    """Which model is trained on which pairs, how, and what must come of it."""

    model: str = Field(description="the stage whose model is started from, which is the reference too")
    data: str = Field(description="the pairs stage")
    adapter: StackSettings = Field(StackSettings(), description="the adapter that is trained over it")
    training: PreferenceSettings = Field(PreferenceSettings(), description="how long, how fast, how carefully")
    min_accuracy: float = Field(
        0.5, ge=0, lt=1, description="what the interval of held-out pair accuracy must lie above"
    )
    min_held_out: int = Field(20, ge=1, description="fewer held-out pairs decide nothing")
    num_answers: int = Field(16, ge=0, description="held-out instructions answered before and after, for lengths")
    max_new_tokens: int = Field(64, ge=1, le=4096, description="limit of such an answer")
    warn_ratio: float = Field(1.5, gt=1, description="change of the median answer length that is warned about")
    engine: EngineSettings = Field(
        EngineSettings(keep_logprobs=False, keep_entropies=False), description="slots and cache of the engine"
    )


class Dpo(Stage):
    """An adapter trained on the data's `pair` output, and the rewards of held-out pairs."""

    Settings = DpoStageSettings
    version = 1
    outputs: Mapping[str, str] = {"reward": "pair_reward"}

    def inputs(self) -> dict[str, str]:
        """The trained model and the pairs."""
        return {"trained": self.settings.model, "data": self.settings.data}

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Response tokens of both sides, once per epoch and once for the reference; unknown before there are pairs."""
        data = inputs.get("data")
        if data is None:
            return None
        tokens = sum(max(0, p.num_chosen_tokens) + max(0, p.num_rejected_tokens) for p in data.records("pair"))
        return float(tokens * (self.settings.training.epochs + 1))

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Check every record, train, publish the adapter, the rewards and the curves."""
        pairs: list[PreferencePair] = check_provenance(inputs["data"], "pair", context.bypasses)
        training = self._training(context)
        tuning = open_tuning(context, outputs, AdapterSettings(**dict(self.settings.adapter)), inputs["trained"])
        loaded = tuning.loaded
        room("models.fp8").fp8_path(training.fp8, loaded.network.output_weight.device)
        examples = _examples(loaded.tokenizer, pairs)
        asked = self._asked(examples, pairs, training)
        lengths = {"before": self._answer_tokens(context, loaded, asked)}
        result = room("train.preferences").train_pairs(
            loaded.network,
            loaded.tokenizer,
            examples,
            training,
            events=context.events,
            scratch=context.scratch,
            on_step=lambda num_tokens: context.budget.spend(tokens=num_tokens),
        )
        lengths["after"] = self._answer_tokens(context, loaded, asked)
        outputs.shard("reward", 0, result.rewards)
        published = tuning.publish(outputs)
        kept = {"adapter": published["adapter"], "reference_unchanged": published["base_unchanged"]}
        outputs.note(
            "figures", {**_figures(result.training), **kept, "answer_tokens": self._compared(context, lengths)}
        )
        context.models.release()

    def figures(self, output: Opened) -> dict[str, Any]:
        """Held-out pair accuracy with its interval, all and by kind, recomputed from the rewards."""
        rewards = list(output.records("reward"))
        kinds = sorted({one.kind for one in rewards})
        return {
            "accuracy": _accuracy(rewards),
            "accuracy_by_kind": {kind: _accuracy([one for one in rewards if one.kind == kind]) for kind in kinds},
            "mean_rewards": {
                "chosen": statistics.fmean(one.chosen for one in rewards) if rewards else 0.0,
                "rejected": statistics.fmean(one.rejected for one in rewards) if rewards else 0.0,
            },
            **{key: output.manifest.figures[key] for key in ("first_loss", "final_loss", "reference_unchanged")},
        }

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """The loss is finite, the reference is what it was, and the interval of the accuracy lies above its limit."""
        found, limit, reasons = figures["accuracy"], self.settings.min_accuracy, []
        if not math.isfinite(figures["final_loss"]):
            reasons.append("the loss is not finite")
        if not figures["reference_unchanged"]:
            reasons.append("the frozen reference changed during training")
        if not reasons and found["n"] < self.settings.min_held_out:
            few = f"{found['n']} held-out pairs, {self.settings.min_held_out} are needed to decide"
            return Verdict(False, (few,), decided=False)
        if found["low"] <= limit:
            reasons.append(
                f"held-out pair accuracy is {found['rate']:.2f}, at least {found['low']:.2f}: not over {limit:g}"
            )
        return Verdict(not reasons, tuple(reasons))

    def _training(self, context: Context) -> PreferenceSettings:
        given: PreferenceSettings = self.settings.training
        return given.model_copy(update={"seed": derive(context.seed, "order")})

    def _asked(
        self, examples: Sequence[Any], pairs: Sequence[PreferencePair], training: PreferenceSettings
    ) -> list[str]:
        """Instructions that are not trained on, the first few of them."""
        held = room("train.pairs").hold_out_pairs(examples, training.eval_fraction, training.seed)[1]
        names = {example.id for example in held}
        instructions = dict.fromkeys(pair.instruction for pair in pairs if pair.id in names)
        return list(instructions)[: self.settings.num_answers]

    def _answer_tokens(self, context: Context, loaded: Any, instructions: Sequence[str]) -> list[int]:
        """How long the model as it stands answers each instruction, greedily."""
        if not instructions:
            return []
        engine = room("engine.engine").Engine(
            loaded, self.settings.engine, events=context.events, on_step=polling(context)
        )
        sampling = Sampling(max_new_tokens=self.settings.max_new_tokens, stop=Frame.stop_strings)
        requests = [Request(f"length-{n}", sampling, text=Frame.prompt(text)) for n, text in enumerate(instructions)]
        counts = engine.count_tokens([completion.text for completion in engine.complete(requests)])
        context.budget.spend(tokens=sum(counts))
        return list(counts)

    def _compared(self, context: Context, lengths: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Median answer lengths before and after; a change past the set ratio is warned about."""
        if not lengths["before"]:
            return {}
        before, after = (float(statistics.median(lengths[when])) for when in ("before", "after"))
        ratio = max(before, after, 1.0) / max(min(before, after), 1.0)
        if ratio > self.settings.warn_ratio:
            text = f"answers changed in length: median {before:g} tokens before, {after:g} after"
            context.events.log(text, level="warning")
        return {"median_before": before, "median_after": after, "ratio": ratio, "n": len(lengths["before"])}


def _examples(tokenizer: Any, pairs: Sequence[PreferencePair]) -> list[Any]:
    kind = room("train.pairs").PairExample
    found = []
    for pair in pairs:
        sides = {
            side: Example(f"{pair.id}:{side}", Frame.render(tokenizer, pair.instruction, text))
            for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected))
        }
        found.append(kind(pair.id, **sides, kind=pair.kind))
    return found


def _accuracy(rewards: Sequence[PairReward]) -> dict[str, Any]:
    wins = sum(one.won for one in rewards)
    low, high = wilson_interval(wins, len(rewards))
    return {"n": len(rewards), "rate": wins / len(rewards) if rewards else 0.5, "low": low, "high": high}


def _figures(training: Any) -> dict[str, Any]:
    return {
        "num_steps": training.num_steps,
        "final_step": training.final_step,
        "stopped_early": training.stopped_early,
        **narrow_figures(training),
        "first_loss": training.first_loss,
        "final_loss": training.final_loss,
        "num_trained_tokens": training.num_targets,
        "num_tokens": training.num_tokens,
        "num_held_out": training.num_held_out,
        "data": plain(training.data),
        "curves": {"train_loss": plain(training.losses), "held_out_loss": plain(training.validation)},
    }
