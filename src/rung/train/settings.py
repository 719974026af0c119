"""Settings of training, apart from it: a recipe is checked and planned without torch."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from rung.base.errors import SettingsError
from rung.base.lookup import known, part
from rung.base.settings import Field, Settings, unsaid
from rung.models.parallel.layout import Layout

__all__ = ["ALL_PROJECTIONS", "AdapterSettings", "PreferenceSettings", "RewardSettings", "SftSettings", "StackSettings"]

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Part = str | dict[str, Any]


class AdapterSettings(Settings):
    """Which weights are trained."""

    kind: Literal["lora", "dora", "none"] = Field(
        "lora", description="lora; dora, with a trained length per output; or none: every weight is trained"
    )
    rank: int = Field(16, ge=1, le=1024, description="inner width of the adapter")
    alpha: float = Field(32.0, gt=0, description="the adapter's output is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the adapter's input; 0 takes the fused path")
    targets: tuple[str, ...] = Field(
        ALL_PROJECTIONS, min_length=1, description="projections that get one; of the usual ones those that are there"
    )
    quantise: Literal["no", "if_usable", "required"] = Field("no", description="hold the frozen base in 4 bits (NF4)")


class StackSettings(Settings):
    """The adapter that is trained over a frozen one. It has no dropout: the reference is computed without any, so a
    policy with dropout would differ from it before the first step."""

    rank: int = Field(16, ge=1, le=1024, description="inner width of the adapter")
    alpha: float = Field(32.0, gt=0, description="the adapter's output is scaled by alpha / rank")
    targets: tuple[str, ...] = Field(
        ALL_PROJECTIONS, min_length=1, description="projections that get one; of the usual ones those that are there"
    )


class SftSettings(Settings):
    """How long, how fast and how carefully."""

    epochs: int = Field(2, ge=1, le=1000, description="times that every training example is shown")
    learning_rate: float = Field(2e-4, gt=0, le=1, description="peak of the schedule")
    schedule: Literal["constant", "linear", "cosine", "stable_decay"] = Field(
        "cosine", description="shape after the warm-up"
    )
    warmup_fraction: float = Field(0.03, ge=0, lt=1, description="share of the steps that the rate rises")
    clip: float = Field(1.0, ge=0, description="largest global norm of a gradient; 0 never clips")
    sequences_per_step: int = Field(16, ge=1, description="examples of one update")
    tokens_per_micro_batch: int = Field(
        2048, ge=8, description="longest packed row; memory grows with it, results do not"
    )
    max_tokens: int = Field(1024, ge=8, description="an example's end is cut (and counted) beyond this")
    eval_fraction: float = Field(0.05, ge=0, le=0.5, description="share of the examples held out; 0 switches it off")
    eval_interval: int = Field(20, ge=1, description="steps between losses on held-out examples")
    patience: int = Field(
        0, ge=0, description="evaluations without a better held-out loss until it stops and restores the best; 0: off"
    )
    checkpoint_interval: int = Field(50, ge=0, description="steps between checkpoints; 0: only when interrupted")
    seed: int = Field(0, ge=0, description="of the data order, the held-out choice and dropout")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="of the forward pass; weights keep theirs. With float16 the loss is scaled, and a step whose "
        "gradient is then too large is left out",
    )
    optimizer: Part = Field("adamw", description="a part of train/optim")
    objective: Part = Field("cross_entropy", description="a part of train/objectives")
    devices: Layout = Field(Layout(), description="how many ranks train together, and what each has a share of")
    recompute: bool = Field(
        False,
        exclude_if=unsaid(),
        description="layers are computed again for their gradients: memory of one at a time, about a third more time",
    )
    curriculum: Part = Field(
        "",
        exclude_if=unsaid(),
        description="a part of train/curricula: easy examples are shown first, each as often as without; empty: each "
        "epoch has a random order of its own",
    )
    fp8: Literal["no", "if_usable", "required", "simulated"] = Field(
        "no",
        exclude_if=unsaid("no"),
        description="products of wide linear layers in FP8: where the GPU has it (if_usable, else bfloat16, and said), "
        "or not at all (required); simulated: the same rounding on any device, slowly",
    )
    decides: Literal["loss", "following"] = Field(
        "loss",
        exclude_if=unsaid("loss"),
        description="the held-out figure that patience goes by; following: the share of right answers (sft.follow)",
    )

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> SftSettings:
        for folder, spec in (("train.optim", self.optimizer), ("train.objectives", self.objective)):
            name = spec if isinstance(spec, str) else str(spec.get("kind", ""))
            if ":" not in name and name not in known(folder):
                raise ValueError(f"no {folder} part is called '{name}', known: {', '.join(known(folder))}")
        if self.curriculum:
            self._check_curriculum()
        if self.recompute and self.devices.context > 1:
            raise ValueError("a ring computes its attention again as it is: leave recompute out, or set context to 1")
        if self.fp8 != "no" and self.precision != "bfloat16":
            raise ValueError("fp8 is for some products of a network in bfloat16: set precision: bfloat16")
        if self.decides != "loss" and (type(self) is not SftSettings or not self.patience):
            raise ValueError("decides: following is for sft, where patience is above 0: nothing else goes by it")
        if self.patience and not self.eval_fraction:
            raise ValueError("patience needs held-out examples: set eval_fraction above 0")
        return self

    def _check_curriculum(self) -> None:
        try:
            kind, _ = part("train.curricula", self.curriculum, "curriculum")
        except SettingsError as error:
            raise ValueError(f"{error.place}: {error.message}; {error.hint}") from error
        if kind.measures and isinstance(self, RewardSettings):
            raise ValueError("curriculum: a head knows nothing before it is trained; name length or rarity")
        if kind.measures and self.devices.context > 1:
            raise ValueError("curriculum: examples are measured whole, not cut over a ring; name length or rarity")


class PreferenceSettings(SftSettings):
    """The same for preference pairs: what is counted, shown, cut and held out are pairs and their two responses."""

    epochs: int = Field(1, ge=1, le=1000, description="times that every training pair is shown")
    learning_rate: float = Field(5e-6, gt=0, le=1, description="peak of the schedule")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="share of the steps that the rate rises")
    eval_fraction: float = Field(0.1, gt=0, le=0.5, description="share of the pairs held out, by instruction")
    patience: int = Field(
        3, ge=0, description="evaluations without a better held-out loss until it stops and restores the best; 0: off"
    )
    objective: Part = Field("dpo", description="a part of train/objectives that reads pairs")


class RewardSettings(SftSettings):
    """The same for reward models: what is counted, shown, cut and held out are labelled answers, or pairs of them."""

    learning_rate: float = Field(1e-3, gt=0, le=1, description="peak of the schedule; 1e-4 suits an adapter")
    epochs: int = Field(4, ge=1, le=1000, description="times that every training example is shown")
    eval_fraction: float = Field(0.1, ge=0, le=0.5, description="share of the examples held out, by prompt")
    patience: int = Field(
        4, ge=0, description="evaluations without a better held-out loss until it stops and restores the best; 0: off"
    )
    head: Part = Field("linear", description="a part of models/heads")
    objective: Part = Field("bradley_terry", description="a part of train/objectives that reads answers")
