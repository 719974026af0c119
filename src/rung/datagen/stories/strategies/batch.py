"""Many prompts at once, again until enough were kept: the fastest on an engine that runs many sequences at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

from rung.base.seeds import derive
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.stories.prompts import StoryPrompt
from rung.datagen.stories.writer import Piece, Writer

__all__ = ["Batch"]


class Batch:
    """Pieces of up to `size` prompts; the last ones are as large as the share kept so far says is needed."""

    class Settings(BaseSettings):
        """Sizes."""

        size: int = Field(64, ge=1, le=4096, description="most prompts of a piece")
        least: int = Field(8, ge=1, description="fewest prompts of a piece: smaller ones take nearly as long")

    continues = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def pieces(self, writer: Writer, prompts: Iterator[StoryPrompt], target: int, seed: int) -> Iterator[Piece]:
        """Decided pieces until `target` stories were kept or the prompts are used up."""
        kept, asked = 0, 0
        while kept < target and (taken := list(islice(prompts, self._size(target - kept, kept, asked)))):
            piece = writer.judge(writer.stories(writer.complete(taken, derive(seed, "batch")), "batch"))
            kept, asked = kept + piece.num_kept, asked + len(taken)
            yield piece

    def _size(self, missing: int, kept: int, asked: int) -> int:
        share = (kept + 1) / (asked + 2)
        return min(self.settings.size, max(self.settings.least, math.ceil(1.2 * missing / share)))
