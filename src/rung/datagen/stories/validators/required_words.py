"""Whether the words that were asked for are there, in whatever form: "ran" is "run", "catch" is not "cat"."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding
from rung.datagen.stories.inflect import occurring
from rung.datagen.stories.judging import Known, sift_stories
from rung.records.contracts import FilterResult
from rung.records.types import Story

__all__ = ["RequiredWords"]


class RequiredWords:
    """Drops "missing_word" where fewer than `min_share` of the words (rounded up) occur."""

    class Settings(BaseSettings):
        """How many of them must be there."""

        min_share: float = Field(1.0, ge=0, le=1, description="share of the words asked for that must occur")

    EXAMPLES = (
        ("The silly dogs ran.", ""),
        ("The silliest dog was running.", ""),
        ("The silly dog sat.", "missing_word"),
        ("Dogged silliness and runes.", "missing_word"),
    )

    def __init__(self, settings: Settings, known: Known) -> None:
        self.settings, self._irregular = settings, known.vocabulary.irregular

    def apply(self, stories: Sequence[Story]) -> FilterResult:
        """Keep the stories that use their words, in order."""
        return sift_stories("required_words", stories, self._find)

    def _find(self, story: Story) -> Finding | None:
        needed = math.ceil(len(story.words) * self.settings.min_share)
        there = occurring(story.words, story.text, self._irregular)
        return Finding("missing_word", (0, len(story.text))) if len(there) < needed else None
