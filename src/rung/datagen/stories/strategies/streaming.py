"""A few prompts at a time: every story is handed on as soon as it is decided, and hardly one too many is written."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from rung.base.seeds import derive
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.stories.prompts import StoryPrompt
from rung.datagen.stories.writer import Piece, Writer

__all__ = ["Streaming"]


class Streaming:
    """Pieces of one story each, `width` of them asked for at a time."""

    class Settings(BaseSettings):
        """Size."""

        width: int = Field(8, ge=1, le=1024, description="prompts asked for at a time")

    continues = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def pieces(self, writer: Writer, prompts: Iterator[StoryPrompt], target: int, seed: int) -> Iterator[Piece]:
        """Decided pieces until `target` stories were kept or the prompts are used up; those that were asked for with
        the last one kept are decided too."""
        kept = 0
        while kept < target and (taken := list(islice(prompts, min(self.settings.width, target - kept)))):
            for draft in writer.complete(taken, derive(seed, "streaming")):
                piece = writer.judge(writer.stories([draft], "streaming"))
                kept += piece.num_kept
                yield piece
