"""Finds out while it writes which template and which temperature are kept most often, and uses these more.

Thompson sampling over the pairs of both: each pair is as likely to be used as it is to be the best, from what was kept
of its stories so far and a flat prior (Thompson 1933; Chapelle and Li 2011). What works is found per shard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice, product
from random import Random

from rung.base.seeds import derive, stream
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.stories.prompts import StoryPrompt
from rung.datagen.stories.writer import Piece, Writer
from rung.datagen.templates import Template

__all__ = ["Adaptive"]

_Arm = tuple[Template, float]


class Adaptive:
    """Pieces of `size` prompts, each with the arm that its own draw picks; the counts are taken up after a piece."""

    class Settings(BaseSettings):
        """What is tried, and how often the counts are taken up."""

        size: int = Field(16, ge=1, le=1024, description="prompts of a piece")
        temperatures: tuple[float, ...] = Field((0.5, 0.8), min_length=1, description="temperatures to choose from")

    continues = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def pieces(self, writer: Writer, prompts: Iterator[StoryPrompt], target: int, seed: int) -> Iterator[Piece]:
        """Decided pieces until `target` stories were kept or the prompts are used up."""
        counts = {arm: [0, 0] for arm in product(writer.planner.templates, self.settings.temperatures)}
        kept, random = 0, stream(seed, "adaptive", "arms")
        while kept < target and (taken := list(islice(prompts, self.settings.size))):
            arms = [_drawn(counts, random) for _ in taken]
            told = [writer.planner.retold(prompt, arm[0]) for prompt, arm in zip(taken, arms, strict=True)]
            sampling = [dataclasses.replace(writer.sampling, temperature=arm[1]) for arm in arms]
            drafts = writer.complete(told, derive(seed, "adaptive"), sampling)
            piece = writer.judge(writer.stories(drafts, "adaptive"))
            for arm, story in zip(arms, piece.stories, strict=True):
                counts[arm][story.outcome != "kept"] += 1
            kept += piece.num_kept
            yield piece


def _drawn(counts: dict[_Arm, list[int]], random: Random) -> _Arm:
    """The arm whose chance of being kept comes out highest, each drawn from what is known of it."""
    return max(counts, key=lambda arm: random.betavariate(1 + counts[arm][0], 1 + counts[arm][1]))
