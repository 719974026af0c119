"""Settings of pretraining, apart from it: a recipe is checked and planned without torch."""

from __future__ import annotations

import pydantic

from rung.base.settings import Field
from rung.train.settings import Part, SftSettings

__all__ = ["PretrainSettings"]


class PretrainSettings(SftSettings):
    """The same for windows of a token corpus: what is counted, shown and shuffled are windows."""

    epochs: int = Field(1, ge=1, le=1000, description="times that every window is shown")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="peak of the schedule")
    warmup_fraction: float = Field(0.02, ge=0, lt=1, description="share of the steps that the rate rises")
    sequences_per_step: int = Field(32, ge=1, description="windows of one update")
    tokens_per_micro_batch: int = Field(8192, ge=8, description="longest row of windows; memory grows with it")
    max_tokens: int = Field(256, ge=8, description="tokens predicted from in one window")
    max_windows: int = Field(0, ge=0, description="so many windows, spread evenly over the corpus; 0: all of it")
    eval_fraction: float = Field(1.0, gt=0, le=1, description="share of the held-out documents that are measured")
    eval_interval: int = Field(100, ge=1, description="steps between losses on held-out documents, and samples")
    checkpoint_interval: int = Field(200, ge=0, description="steps between checkpoints; 0: only when interrupted")
    optimizer: Part = Field({"kind": "adamw", "beta2": 0.95, "weight_decay": 0.1}, description="a part of train/optim")

    @pydantic.model_validator(mode="after")
    def _no_curriculum(self) -> PretrainSettings:
        """Windows cut texts where they end, so an easy text has no window of its own."""
        if self.curriculum:
            raise ValueError("curriculum: windows hold what lies there, easy or hard; it is for sft, dpo and reward")
        return self
