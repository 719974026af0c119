"""One shard of stories: a strategy's pieces until enough were kept, and what is watched meanwhile.

What a shard holds follows from its seed, its target and its share of the plan, never from other shards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.base.settings import Field, Settings
from rung.datagen.stories.figures import Share
from rung.datagen.stories.prompts import StoryPrompt
from rung.datagen.stories.writer import Writer
from rung.records.types import Document, Drop, Story, record_id

__all__ = ["Made", "Monitor", "Reading", "WatchSettings", "document_of", "make_stories"]


@dataclass
class Made:
    """What was written so far, in the order it was decided."""

    stories: list[Story] = field(default_factory=list)
    dropped: list[Drop] = field(default_factory=list)

    @property
    def num_kept(self) -> int:
        """Stories kept."""
        return sum(story.outcome == "kept" for story in self.stories)

    @property
    def num_tokens(self) -> int:
        """Tokens drawn for all of them."""
        return sum(story.num_tokens for story in self.stories)


def make_stories(
    writer: Writer,
    strategy: Any,
    prompts: Iterator[StoryPrompt],
    goal: tuple[int, int],
    after: Callable[[Made, Sequence[Story]], None],
) -> Made:
    """Pieces until the target is kept or the prompts are used up; what is kept beyond it is passed over.

    Args:
        writer: with fresh validators.
        strategy: a part of `datagen.stories.strategies`.
        prompts: this shard's share of the plan, as many as may be used.
        goal: stories to keep, and the shard's seed.
        after: called after every piece with everything and with what is new; what it raises ends the shard.
    """
    made, (target, seed) = Made(), goal
    for piece in strategy.pieces(writer, prompts, target, seed):
        room = target - made.num_kept
        stories = []
        for story in piece.stories:
            over = story.outcome == "kept" and room <= 0
            room -= story.outcome == "kept"
            stories.append(_unneeded(story) if over else story)
        made.stories += stories
        made.dropped += piece.dropped
        after(made, stories)
    return made


def _unneeded(story: Story) -> Story:
    return dataclasses.replace(story, outcome="passed_over", part="stories", reason="count_reached")


def document_of(story: Story, source: str, licence: str) -> Document:
    """A kept story as a text to learn from; its meta says what it was asked for."""
    meta = {
        "words": list(story.words),
        "features": list(story.features),
        "level": story.level,
        "template": story.template,
        "template_version": story.template_version,
        "strategy": story.strategy,
        "story": story.id,
        "seed": story.seed,
    }
    return Document(record_id("document", source, story.text), story.text, source, licence, "en", meta)


class WatchSettings(Settings):
    """When writing is going badly."""

    window: int = Field(64, ge=8, description="latest stories that are looked at")
    min_acceptance: float = Field(0.0, ge=0, le=1, description="share of the window that must be without a fault; "
                                  "writing ends when it is surely less (0: never)")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """Acceptance over the window and speed over everything; `alarm` is evidence in words, or empty."""

    accepted: Share
    kept_per_minute: float
    tokens_per_second: float
    alarm: str


class Monitor:
    """Looks at stories as they are decided, with the clock that it is given."""

    def __init__(self, settings: WatchSettings, clock: Callable[[], float]) -> None:
        self.settings, self._clock, self._start = settings, clock, clock()
        self._latest: list[bool] = []
        self._kept = self._tokens = 0

    def add(self, stories: Sequence[Story]) -> Reading:
        """Take in newly decided stories."""
        self._latest += [story.outcome != "dropped" for story in stories]
        self._kept += sum(story.outcome == "kept" for story in stories)
        self._tokens += sum(story.num_tokens for story in stories)
        window, least = self._latest[-self.settings.window :], self.settings.min_acceptance
        share, seconds = Share.of(sum(window), len(window)), max(1e-9, self._clock() - self._start)
        sure = len(window) == self.settings.window and share.high < least
        alarm = f"{share.count} of the last {share.total} stories were without a fault, at most {share.high:.0%}"
        return Reading(share, 60 * self._kept / seconds, self._tokens / seconds, f"{alarm}, limit {least:.0%}" * sure)
