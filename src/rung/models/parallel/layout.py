"""How many devices a training runs on, and what each has a share of. No torch: recipes are checked without it."""

from __future__ import annotations

from typing import Literal

import pydantic

from rung.base.settings import Field, Settings

__all__ = ["Layout", "Order"]

Order = Literal["zigzag", "striped", "contiguous"]


class Layout(Settings):
    """Three dimensions, whose product is the number of ranks (processes, each with a device). No part of any identity:
    what is trained is the same on any of them.

    `data` x `shard` ranks read different rows; the `context` ranks of a row hold a part of its tokens each.
    """

    data: int = Field(1, ge=1, le=4096, description="replicas: each has whole weights, or all shards of them")
    shard: int = Field(
        1, ge=1, le=4096, description="ranks that share the weights of a replica (FSDP2); 1: whole (DDP)"
    )
    context: int = Field(1, ge=1, le=256, description="ranks that share the tokens of a row (ring attention)")
    order: Order = Field("zigzag", description="which tokens a context rank holds; contiguous leaves the first idle")
    query_block: int = Field(
        0, ge=0, description="most queries that meet a block at once; 0: all. Fewer take less memory, and more time"
    )
    profile: bool = Field(False, description="log what the ring did since the last step began, round by round")
    timeout_seconds: float = Field(
        600.0, gt=0, description="a rank that is silent for longer is lost, and ends the job"
    )

    @property
    def size(self) -> int:
        """The number of ranks."""
        return self.data * self.shard * self.context

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Layout:
        if 0 < self.query_block < 16:
            raise ValueError("query_block is 0 or at least 16: smaller blocks only cost time")
        if self.context == 1 and (self.order != "zigzag" or self.query_block or self.profile):
            raise ValueError("order, query_block and profile are of the ring: set context above 1")
        return self
