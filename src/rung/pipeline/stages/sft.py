"""Supervised fine-tuning on gated data: loss on the response alone, adapters by default, resumable at every step.

Nothing is trained before every record's provenance was read (`training_gate`); what was trained, on what and how it
went is in the manifest, which exists only when the whole thing ended well. A network that an earlier stage made from
raw text (`model`) is published whole again; over an earlier stage's adapter a fresh one is trained.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic

from rung.base.errors import DataError, SettingsError
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.seeds import derive
from rung.base.settings import Field, Settings, unsaid
from rung.datagen.instructing.unseen import UnseenSettings, unseen_figures
from rung.engine.settings import EngineSettings
from rung.pipeline.stage import Context, Outputs, Stage, Verdict
from rung.pipeline.stages._answering import answer_items
from rung.pipeline.stages._model import narrow_figures, polling, room
from rung.pipeline.stages._sampling import Held
from rung.pipeline.stages._tuning import open_tuning
from rung.pipeline.training_gate import check_provenance
from rung.records.chat.frame import Frame
from rung.records.chat.masking import Trained
from rung.records.manifest import Opened
from rung.records.packing import Example
from rung.records.types import SftRecord
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
        description="the stage whose model is tuned, such as pretrain; empty: the recipe's model",
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
    unseen: str = Field(
        "",
        exclude_if=unsaid(),
        description="a stage with an output `unseen`, such as make_instructions: ways of asking that are never trained "
        "on, whose loss is measured at each evaluation; empty: none",
    )

    @pydantic.model_validator(mode="after")
    def _decided(self) -> SftStageSettings:
        """What decides is measured, and by somebody who can."""
        if self.follow is not None and self.training.devices.size > 1:
            raise ValueError("follow: several ranks train, and none of them can answer; leave it out")
        if self.follow is not None and not self.training.eval_fraction:
            raise ValueError("follow: there is no evaluation; set training.eval_fraction above 0")
        if self.unseen and not self.training.eval_fraction:
            raise ValueError("unseen: there is no evaluation; set training.eval_fraction above 0")
        if self.training.decides == "following" and self.follow is None:
            raise ValueError("training.decides is following: say which instructions (follow)")
        return self


class Sft(Stage):
    """An adapter (or weights) trained on the data's `sft` output."""

    Settings = SftStageSettings
    version = 1
    outputs: Mapping[str, str] = {}

    def inputs(self) -> dict[str, str]:
        """The data, and the stages with the network and with unseen instructions where they are named."""
        named = {"network": self.settings.model, "unseen": self.settings.unseen}
        return {"data": self.settings.data, **{name: stage for name, stage in named.items() if stage}}

    def check_inputs(self, stages: Mapping[str, Stage]) -> None:
        """Not every stage keeps instructions that nobody is trained on.

        Raises:
            SettingsError: the one that is named does not.
        """
        if "unseen" in stages and "unseen" not in stages["unseen"].outputs:
            raise SettingsError(
                f"the stage '{self.settings.unseen}' keeps no instructions that are only measured on",
                place="unseen",
                hint=f"make_instructions does, with unseen: {{styles: [...]}}; {self.settings.unseen} has "
                + (", ".join(stages["unseen"].outputs) or "no records"),
            )

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Response tokens, once per epoch; unknown before there are data."""
        data = inputs.get("data")
        if data is None:
            return None
        return float(sum(r.num_response_tokens for r in data.records("sft")) * self.settings.training.epochs)

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Check every record, train, publish the adapter (or every weight) and the curves."""
        records = check_provenance(inputs["data"], "sft", context.bypasses)
        unseen = self._unseen_records(context, inputs, records)
        tuning = open_tuning(context, outputs, self.settings.adapter, inputs.get("network"))
        loaded = tuning.loaded
        more = self._also_measured(context, loaded, unseen)
        first = more["unseen_loss"]() if unseen else 0.0
        result = room("train.loop").train(
            loaded.network,
            loaded.tokenizer,
            self._examples(loaded.tokenizer, records),
            self.settings.training.model_copy(update={"seed": derive(context.seed, "order")}),
            events=context.events,
            scratch=context.scratch,
            on_step=lambda num_tokens: context.budget.spend(tokens=num_tokens),
            also=(lambda: {name: measure() for name, measure in more.items()}) if more else None,
        )
        if unseen:
            last = more["unseen_loss"]()
            outputs.note("figures", {"unseen": {"n": len(unseen), "loss_before": first, "loss_after": last}})
        outputs.note("figures", {**_figures(result), **tuning.publish(outputs)})
        context.models.release()

    def _examples(self, tokenizer: Any, records: Sequence[SftRecord]) -> list[Example]:
        trained = self.settings.trained
        return [
            Example(r.id, Frame.render(tokenizer, r.instruction, r.response, earlier=r.earlier_pairs, trained=trained))
            for r in records
        ]

    def _unseen_records(
        self, context: Context, inputs: Mapping[str, Opened], trained: Sequence[SftRecord]
    ) -> list[SftRecord]:
        """Those that are measured on, held against those that are trained on: they may come from another stage."""
        if "unseen" not in inputs:
            return []
        found: list[SftRecord] = check_provenance(inputs["unseen"], "unseen", context.bypasses)
        own = UnseenSettings(**inputs["unseen"].manifest.settings["unseen"])
        apart = unseen_figures(trained, found, own)
        if apart.num_trained or apart.num_texts:
            raise DataError(
                f"of {apart.count} records measured as unseen {apart.num_texts} have a text that is trained on, "
                f"and {apart.num_trained} trained records ask in their ways",
                place=f"{context.name}.unseen",
                hint="train on the output `sft` of the same stage, or of one that holds out the same",
            )
        return found

    def _also_measured(
        self, context: Context, loaded: Any, unseen: Sequence[SftRecord]
    ) -> dict[str, Callable[[], float]]:
        """What is measured at each evaluation beside the loss, by name."""
        found: dict[str, Callable[[], float]] = {}
        if self.settings.follow is not None:
            found["following"] = self._following(context, loaded, self.settings.follow)
        if unseen:
            examples = self._examples(loaded.tokenizer, unseen)
            found["unseen_loss"] = room("train.loop").loss_on(loaded.network, examples, self.settings.training)
        return found

    def _following(self, context: Context, loaded: Any, asked: FollowSettings) -> Callable[[], float]:
        """The share of the suite's instructions that are answered right, greedily."""
        kind, own = part("evaluate.suites", asked.suite, "follow.suite")
        items, held = kind(own).items(), Held(loaded.network, loaded.tokenizer)
        sizes = EngineSettings(keep_logprobs=False, keep_entropies=False)
        engine = room("engine.engine").Engine(held, sizes, on_step=polling(context))

        def measure() -> float:
            """With the weights as they are now."""
            with room("train.update").without_dropout(loaded.network), room("models.fp8").exact(loaded.network):
                answers = answer_items(engine, items, "tuned", asked.max_new_tokens, context.seed)
            engine.release()
            return statistics.fmean(answer.passed for answer in answers)

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
