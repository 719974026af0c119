"""Settings that every way of playing shares."""

from __future__ import annotations

from rung.base.settings import Field, Settings

__all__ = ["PlaySettings"]


class PlaySettings(Settings):
    """How an answer is drawn. A penalty of repetition is not offered: the trainer could not renormalise it away."""

    temperature: float = Field(1.0, ge=0, le=10, description="of the draw; 0 is greedy and only for answers")
    top_p: float = Field(1.0, gt=0, le=1, description="smallest set of tokens with this mass; 1 is all")
    top_k: int = Field(0, ge=0, description="most tokens drawn from; 0 is all")
    max_new_tokens: int = Field(64, ge=1, le=32768, description="limit of an answer")
