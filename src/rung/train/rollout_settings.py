"""Settings of training on rollouts, apart from it: a recipe is checked and planned without torch."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from rung.base.lookup import known
from rung.base.settings import Field, Settings, unsaid
from rung.train.dynamic_sampling import RefillSettings

__all__ = ["HealthSettings", "ImportanceSettings", "KlControlSettings", "RolloutSettings", "Rule"]

Part = str | dict[str, Any]
Rule = Literal[
    "not_finite",
    "entropy_collapse",
    "truncated",
    "wrong_answers_grow",
    "dead_groups",
    "kl_runaway",
    "mismatch_grows",
    "unparsable",
    "abstained",
]


def _unsaid(value: object) -> bool:
    """What a recipe does not say is not written either: a fingerprint does not change because a setting came to be."""
    return value is None


class ImportanceSettings(Settings):
    """How samples are weighed."""

    mode: Literal["weigh", "bypass", "off"] = Field(
        "weigh", description="weigh; bypass: the sampler's log-probabilities are the old ones; off: only measure"
    )
    level: Literal["token", "sequence"] = Field("token", description="one weight per token, or per sequence")
    outside: Literal["truncate", "mask"] = Field(
        "truncate", description="weights outside the bounds are set to the bound, or to 0"
    )
    high: float = Field(2.0, ge=1, le=1000, description="upper bound (typical: token 1.5 to 5, sequence 2 to 10)")
    low: float | None = Field(None, ge=0, le=1, description="lower bound; null: none")


class KlControlSettings(Settings):
    """Where the KL is held, and how hard."""

    target: float = Field(gt=0, le=100, description="nats per token from the reference; up to there nothing is added")
    strength: float = Field(
        5.0, gt=0, le=1000, description="added to the coefficient per target's worth of KL beyond the target"
    )
    highest: float = Field(20.0, gt=0, le=1000, description="the coefficient never rises above this")


class HealthSettings(Settings):
    """The limits of the rules, and how much has to be seen before they speak."""

    window: int = Field(8, ge=1, le=1000, description="steps whose median is looked at; the first ones are the start")
    patience: int = Field(5, ge=1, le=1000, description="steps in a row until an alarm is raised, or falls again")
    stop_after: int = Field(15, ge=1, le=10000, description="steps that an alarm may last until it stops the run")
    stop_on: tuple[Rule, ...] = Field(
        ("entropy_collapse", "truncated", "wrong_answers_grow", "dead_groups", "kl_runaway", "mismatch_grows"),
        description="rules that may stop a run, beside not_finite; the others only raise alarms",
    )
    entropy_fraction: float = Field(
        0.1, ge=0, le=1, description="entropy_collapse: entropy below this share of the start's, and a flat reward"
    )
    flat_gain: float = Field(
        0.1, ge=0, le=10, description="a reward is flat when a window gained less than this share of its spread"
    )
    truncated_share: float = Field(0.3, ge=0, le=1, description="truncated: more answers than this hit the limit")
    wrong_growth: float = Field(
        2.0, ge=1, le=100, description="wrong_answers_grow: wrong answers longer than at the start by this factor"
    )
    right_growth: float = Field(1.2, ge=1, le=100, description="wrong_answers_grow: and right ones by less than this")
    mixed_share: float = Field(0.1, ge=0, le=1, description="dead_groups: fewer groups than this are mixed")
    kl_limit: float = Field(0.5, gt=0, le=100, description="kl_runaway: nats per token from the reference")
    mismatch_growth: float = Field(3.0, ge=1, le=1000, description="mismatch_grows: times the start's mismatch")
    mismatch_floor: float = Field(
        1e-3, ge=0, le=10, description="mismatch_grows: nats per token that are never alarming"
    )
    unparsable_share: float = Field(0.3, ge=0, le=1, description="unparsable: more answers than this cannot be read")
    abstained_share: float = Field(0.2, ge=0, le=1, description="abstained: more rewards than this are missing")


class RolloutSettings(Settings):
    """How much is sampled a step, how it becomes updates, and when to look at what came of it."""

    num_steps: int = Field(100, ge=1, le=1_000_000, description="batches of rollouts")
    prompts_per_step: int = Field(8, ge=1, le=4096, description="prompts of a batch: groups that are trained on")
    group_size: int = Field(8, ge=2, le=256, description="answers sampled for one prompt")
    num_updates: int = Field(1, ge=1, le=64, description="updates a batch; its groups are split evenly among them")
    num_passes: int = Field(1, ge=1, le=16, description="times that a batch is trained on")
    learning_rate: float = Field(1e-5, gt=0, le=1, description="peak of the schedule")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="shape after the warm-up")
    warmup_steps: int = Field(2, ge=0, description="steps that the rate rises")
    clip: float = Field(1.0, ge=0, description="largest global norm of a gradient; 0 never clips")
    tokens_per_micro_batch: int = Field(
        4096, ge=8, description="longest packed row; memory grows with it, results do not"
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the forward pass; weights keep theirs")
    optimizer: Part = Field("adamw", description="a part of train/optim")
    objective: Part = Field("dapo", description="a part of train/objectives that reads rollouts")
    credit: Part = Field("group_mean_std", description="a part of train/credit")
    kl_control: KlControlSettings | None = Field(
        None,
        exclude_if=unsaid(),
        description="hold the KL at a target by raising the objective's coefficient beyond it; null: it stays",
    )
    importance: ImportanceSettings = Field(
        ImportanceSettings(mode="bypass"), description="what is done about a sampler that is not quite the policy"
    )
    refill: RefillSettings | None = Field(
        RefillSettings(), description="draw on until the batch is full of groups that teach; null: take what comes"
    )
    truncated: Literal["wrong", "mask", "as_is"] = Field(
        "wrong", description="answers cut at the limit: judged as empty ones, not trained on, or judged as they are"
    )
    health: HealthSettings = Field(HealthSettings(), description="when the run is ill, and when that ends it")
    eval_interval: int = Field(10, ge=1, description="steps between looks at held-out items")
    keep: Literal["best", "last"] = Field("best", description="which weights are published; best: on held-out items")
    checkpoint_interval: int = Field(5, ge=0, description="steps between checkpoints; 0: only when interrupted")
    seed: int = Field(0, ge=0, description="of the order of prompts and updates, and of the samples")

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> RolloutSettings:
        specs = {"optim": self.optimizer, "objectives": self.objective, "credit": self.credit}
        for folder, spec in specs.items():
            name, there = spec if isinstance(spec, str) else str(spec.get("kind", "")), known(f"train.{folder}")
            if ":" not in name and name not in there:
                raise ValueError(f"no train.{folder} part is called '{name}', known: {', '.join(there)}")
        if self.num_updates > self.prompts_per_step:
            raise ValueError(f"{self.prompts_per_step} prompts cannot be split into {self.num_updates} updates")
        return self
