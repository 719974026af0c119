"""Settings of the engine, apart from it: a recipe is checked and planned without torch."""

from __future__ import annotations

from typing import Literal

from rung.base.settings import Field, Settings, unsaid

__all__ = ["EngineSettings"]


class EngineSettings(Settings):
    """How much runs at once, and what is kept of it. Results do not depend on `num_slots`."""

    num_slots: int = Field(64, ge=1, description="sequences decoded at once, rounded up to a multiple of four")
    max_context: int = Field(0, ge=0, description="longest prompt plus new tokens; 0 is what the model allows")
    prefill_chunk: int = Field(512, ge=1, description="prompt tokens of one forward")
    head_chunk: int = Field(
        2048, ge=64, description="vocabulary rows projected at once; a chunk of logits fits the cache"
    )
    cache_mebibytes: int = Field(
        0, ge=0, description="most memory for keys and values; 0 is any. What does not fit waits, or begins again"
    )
    score_tokens: int = Field(4096, ge=1, description="tokens that one forward of `score` takes, documents packed")
    keep_logprobs: bool = Field(True, description="log-probabilities of drawn tokens, sampled and raw")
    keep_entropies: bool = Field(True, description="entropies of the raw distribution at every drawn token")
    precision: Literal["weights", "bfloat16"] = Field(
        "weights",
        exclude_if=unsaid("weights"),
        description="of the products: that of the weights, or bfloat16, where float32 weights are copied for it",
    )
