"""Pretraining: a network of a family, random weights, and the tokens of a corpus.

At each evaluation the loss on held-out documents is measured (in bits per byte too) and sample texts are written.
The trained network is published with its tokenizer in the published layout: `run:RUN/pretrain` and
`dir:RUN/pretrain/model` are sources of models, and transformers reads the folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rung.base.errors import SettingsError
from rung.base.events import Events
from rung.base.fingerprint import plain
from rung.base.lookup import known, lookup
from rung.base.seeds import derive
from rung.base.settings import Field, Settings, validate
from rung.pipeline.stage import Context, Outputs, Stage, Terms, Verdict
from rung.pipeline.stages._model import narrow_figures, publish_network, room
from rung.pipeline.stages._sampling import Held, Samples, SampleSettings, watched
from rung.records.manifest import Opened
from rung.records.token_shards import TokenShard
from rung.records.tokenizer import Tokenizer
from rung.records.tokenizer_training import as_tokenizer
from rung.records.windows import Windows
from rung.train.pretrain_settings import PretrainSettings

__all__ = ["Pretrain"]

_FAMILIES = "models.families"


class NetworkSettings(Settings):
    """What is built."""

    family: str = Field("llama", description="a file in models/families")
    size: str = Field("tiny", description="one of the family's SIZES")
    change: dict[str, Any] = Field(default_factory=dict, description="settings of the family that differ from the size")


class PretrainStageSettings(Settings):
    """Which tokens, which network, and how."""

    tokens: str = Field(description="the stage with the tokens")
    network: NetworkSettings = Field(NetworkSettings(), description="family and size")
    training: PretrainSettings = Field(PretrainSettings(), description="how long, how fast, in which windows")
    samples: SampleSettings = Field(SampleSettings(), description="texts written at each evaluation")
    max_bits_per_byte: float = Field(0.0, ge=0, description="the gate refuses a model above it; 0: any that learned")


class Pretrain(Stage):
    """The published network, and the samples of every evaluation in `sample`."""

    Settings = PretrainStageSettings
    version = 1
    uses_model = False
    outputs: Mapping[str, str] = {"sample": "document"}

    def inputs(self) -> dict[str, str]:
        """Tokens, with their tokenizer."""
        return {"tokens": self.settings.tokens}

    def check(self, terms: Terms) -> None:
        """Name an unknown family before any corpus is read; its sizes are known when it is built.

        Raises:
            SettingsError: there is none of that name.
        """
        if self.settings.network.family not in known(_FAMILIES):
            raise SettingsError(
                f"no family is called '{self.settings.network.family}'",
                place="network.family",
                hint=f"known: {', '.join(known(_FAMILIES))}",
            )

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Tokens trained on, once per epoch; unknown before there are any."""
        if "tokens" not in inputs:
            return None
        s = self.settings.training
        num = float(inputs["tokens"].manifest.figures.get("num_train_tokens", 0))
        shown = min(num, float(s.max_windows * s.max_tokens)) if s.max_windows else num
        return float(shown * s.epochs)

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Build, train, publish."""
        tokenizer = as_tokenizer(Tokenizer.load(inputs["tokens"].file("tokenizer")).inner)
        network = self._network(tokenizer, derive(context.seed, "weights"))
        settings = self.settings.training.model_copy(update={"seed": derive(context.seed, "order")})
        train, held_out = self._windows(inputs["tokens"], tokenizer)
        content = [f.sha256 for f in inputs["tokens"].manifest.files]
        pretraining = room("train.pretraining")
        material = pretraining.WindowMaterial(network, train, held_out, settings, content)
        result = pretraining.pretrain(
            material,
            events=self._watched(context, outputs, Held(network, tokenizer), f"{pretraining.NAME}/held_out_loss"),
            scratch=context.scratch,
            on_step=lambda num_tokens: context.budget.spend(tokens=num_tokens),
        )
        publish_network(network, tokenizer, outputs)
        outputs.note("figures", _figures(result, held_out, pretraining.bits_per_byte))
        outputs.note("model", {"family": self.settings.network.family, **_size(network)})

    def _watched(self, context: Context, outputs: Outputs, held: Held, metric: str) -> Events:
        """The events of the training, with samples at each evaluation; weights split over ranks cannot be sampled."""
        training = self.settings.training
        if training.devices.size > 1:
            context.events.degraded("samples", "none are written while several ranks train")
            return context.events
        samples = Samples(context, outputs, held, self.settings.samples)
        return watched(context.events, metric, lambda step, _: samples(step, -(-step // training.eval_interval)))

    def _network(self, tokenizer: Tokenizer, seed: int) -> Any:
        s = self.settings.network
        family = lookup(_FAMILIES, s.family, "network.family")
        if s.size not in family.SIZES:
            raise SettingsError(
                f"'{s.family}' has no size '{s.size}'",
                place="network.size",
                hint=f"known: {', '.join(family.SIZES)}",
            )
        chosen = {**plain(family.SIZES[s.size]), **s.change, "vocabulary": tokenizer.vocabulary_size}
        return family.build(validate(family.Settings, chosen, "network.change"), seed)

    def _windows(self, tokens: Opened, tokenizer: Tokenizer) -> tuple[Windows, Windows]:
        """Trained, and held out: the first share of the held-out documents, which stand in no order of theirs."""
        folder, window = tokens.file("tokens").parent, self.settings.training.max_tokens
        train, held_out = (TokenShard(folder, part, tokenizer.vocabulary_size) for part in ("train", "held_out"))
        num = max(round(self.settings.training.eval_fraction * held_out.num_documents), 1)
        return Windows(train, window), Windows(held_out, window, num)

    def figures(self, output: Opened) -> dict[str, Any]:
        """What the training noted, and the samples counted; the weights are verified by their hashes."""
        noted = output.manifest.figures
        kept = {key: noted[key] for key in ("first_bits_per_byte", "bits_per_byte", "final_step", "num_steps")}
        return {**kept, "num_samples": output.count("sample")}

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """It learned, and enough of it."""
        first, last, most = figures["first_bits_per_byte"], figures["bits_per_byte"], self.settings.max_bits_per_byte
        reasons = []
        if not (math.isfinite(last) and last < first):
            reasons.append(f"held-out bits per byte did not fall: {first:.3f} at first, {last:.3f} at last")
        if 0 < most < last:
            reasons.append(f"{last:.3f} bits per byte on held-out documents, at most {most} may be")
        return Verdict(not reasons, tuple(reasons))


def _figures(result: Any, held_out: Windows, bits: Any) -> dict[str, Any]:
    curve = [(step, bits(loss, held_out)) for step, loss in result.validation]
    return {
        "num_steps": result.num_steps,
        "final_step": result.final_step,
        "stopped_early": result.stopped_early,
        **narrow_figures(result),
        "first_bits_per_byte": curve[0][1],
        "bits_per_byte": next(value for step, value in reversed(curve) if step <= result.final_step),
        "num_trained_tokens": result.num_targets,
        "num_held_out_documents": result.num_held_out,
        "num_held_out_bytes": held_out.num_bytes,
        "seconds": result.seconds,
        "curves": {
            "train_loss": plain(result.losses),
            "held_out_loss": plain(result.validation),
            "held_out_bits_per_byte": plain(curve),
        },
    }


def _size(network: Any) -> dict[str, Any]:
    return {"num_parameters": sum(p.numel() for p in network.parameters()), "settings": plain(network.settings)}
