"""Supervised fine-tuning on gated data: loss on the response alone, adapters by default, resumable at every step.

Nothing is trained before every record's provenance was read (`training_gate`); what was trained, on what and how it
went is in the manifest, which exists only when the whole thing ended well. A network that an earlier stage made from
raw text (`model`) is published whole again: there is no other place that its base could come from.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import pydantic

from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.seeds import derive
from rung.base.settings import Field, Settings, unsaid
from rung.engine.settings import EngineSettings
from rung.pipeline.stage import Context, Outputs, Stage, Verdict
from rung.pipeline.stages._answering import answer_items
from rung.pipeline.stages._model import (
    model_facts,
    narrow_figures,
    polling,
    publish_network,
    published,
    room,
    save_trained,
)
from rung.pipeline.stages._sampling import Held
from rung.pipeline.training_gate import check_provenance
from rung.records.chat.frame import Frame
from rung.records.chat.masking import Trained
from rung.records.manifest import Opened
from rung.records.packing import Example
from rung.train.settings import AdapterSettings, SftSettings

__all__ = ["Sft"]


class FollowSettings(Settings):
    """Which instructions, and how many tokens an answer may have."""

    suite: str | dict[str, Any] = Field("instruction_following", description="a part of evaluate/suites")
    max_new_tokens: int = Field(32, ge=1, le=4096, description="limit of an answer")


class SftStageSettings(Settings):
    """What is trained on, which weights, and how."""

    data: str = Field(description="the data stage")
    model: str = Field(
        "",
        exclude_if=unsaid(),
        description="the stage whose published network is tuned, such as pretrain; empty: the recipe's model",
    )
    adapter: AdapterSettings = Field(AdapterSettings(), description="which weights are trained")
    trained: Trained = Field(
        "response",
        exclude_if=unsaid("response"),
        description="what of a conversation carries loss: its last response, the responses of all turns, or everything",
    )
    training: SftSettings = Field(SftSettings(), description="how long, how fast, how carefully")
    follow: FollowSettings | None = Field(
        None, exclude_if=unsaid(), description="held-out instructions that are answered at each evaluation"
    )

    @pydantic.model_validator(mode="after")
    def _decided(self) -> SftStageSettings:
        """What decides is measured, and by somebody who can."""
        if self.follow is not None and self.training.devices.size > 1:
            raise ValueError("follow: several ranks train, and none of them can answer; leave it out")
        if self.follow is not None and not self.training.eval_fraction:
            raise ValueError("follow: there is no evaluation; set training.eval_fraction above 0")
        if self.training.decides == "following" and self.follow is None:
            raise ValueError("training.decides is following: say which instructions (follow)")
        return self


class Sft(Stage):
    """An adapter (or weights) trained on the data's `sft` output."""

    Settings = SftStageSettings
    version = 1
    outputs: Mapping[str, str] = {}

    def inputs(self) -> dict[str, str]:
        """The data, and the stage with the network where one is named."""
        named = {"network": self.settings.model} if self.settings.model else {}
        return {"data": self.settings.data, **named}

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Response tokens, once per epoch; unknown before there are data."""
        data = inputs.get("data")
        if data is None:
            return None
        return float(sum(r.num_response_tokens for r in data.records("sft")) * self.settings.training.epochs)

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Check every record, train, publish the adapter (or every weight) and the curves."""
        records = check_provenance(inputs["data"], "sft", context.bypasses)
        made_here = inputs.get("network")
        # a network that this run made was never taught to follow instructions, so there is nothing to guard against;
        # and what is published again is not to be rounded
        loaded = (
            context.models.load(published(made_here), clean=False, precision="float32")
            if made_here
            else context.models.load(context.model_source)
        )
        outputs.note("model", model_facts(loaded))
        examples = [
            Example(
                one.id,
                Frame.render(
                    loaded.tokenizer,
                    one.instruction,
                    one.response,
                    earlier=one.earlier_pairs,
                    trained=self.settings.trained,
                ),
            )
            for one in records
        ]
        adapters, loop = room("train.adapters"), room("train.loop")
        made = adapters.prepare(loaded.network, self.settings.adapter, derive(context.seed, "adapter"))
        if made.degraded:
            context.events.degraded("4-bit base", made.degraded)
        before = adapters.base_hash(loaded.network)
        result = loop.train(
            loaded.network,
            loaded.tokenizer,
            examples,
            self.settings.training.model_copy(update={"seed": derive(context.seed, "order")}),
            events=context.events,
            scratch=context.scratch,
            on_step=lambda num_tokens: context.budget.spend(tokens=num_tokens),
            also=self._following(context, loaded),
        )
        whole = self.settings.adapter.kind == "none"
        unchanged = whole or adapters.base_hash(loaded.network) == before
        if not made_here:
            save_trained(loaded.network, outputs, whole=whole)
        else:
            if not whole:
                adapters.merge(loaded.network)
            publish_network(loaded.network, loaded.tokenizer, outputs)
        outputs.note("figures", {**_figures(result), "adapter": plain(made), "base_unchanged": unchanged})
        context.models.release()

    def _following(self, context: Context, loaded: Any) -> Callable[[], dict[str, float]] | None:
        """The share of the suite's instructions that are answered right, greedily."""
        asked = self.settings.follow
        if asked is None:
            return None
        kind, own = part("evaluate.suites", asked.suite, "follow.suite")
        items, held = kind(own).items(), Held(loaded.network, loaded.tokenizer)
        sizes = EngineSettings(keep_logprobs=False, keep_entropies=False)
        engine = room("engine.engine").Engine(held, sizes, on_step=polling(context))

        def measure() -> dict[str, float]:
            """With the weights as they are now."""
            with room("train.update").without_dropout(loaded.network), room("models.fp8").exact(loaded.network):
                answers = answer_items(engine, items, "tuned", asked.max_new_tokens, context.seed)
            engine.release()
            return {"following": statistics.fmean(answer.passed for answer in answers)}

        return measure

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """The loss is finite and fell, and a frozen base is still what it was."""
        reasons = []
        first, last = figures["first_loss"], figures["final_loss"]
        if not (math.isfinite(last) and last < first):
            reasons.append(f"the loss did not fall: {first:.3f} at first, {last:.3f} at last")
        if not figures["base_unchanged"]:
            reasons.append("the frozen base changed during training")
        return Verdict(not reasons, tuple(reasons))

    def figures(self, output: Opened) -> dict[str, Any]:
        """What the training noted; the weights themselves are verified by their hash."""
        return {key: output.manifest.figures[key] for key in ("first_loss", "final_loss", "base_unchanged")}


def _figures(result: Any) -> dict[str, Any]:
    return {
        "num_steps": result.num_steps,
        "final_step": result.final_step,
        "stopped_early": result.stopped_early,
        **narrow_figures(result),
        "first_loss": sum(loss for _, loss in result.losses[:3]) / len(result.losses[:3]),
        "final_loss": sum(loss for _, loss in result.losses[-3:]) / len(result.losses[-3:]),
        "num_trained_tokens": result.num_targets,
        "num_tokens": result.num_tokens,
        "num_held_out": result.num_held_out,
        "data": plain(result.data),
        "curves": {"train_loss": plain(result.losses), "held_out_loss": plain(result.validation)},
    }
