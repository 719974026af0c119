"""How long a story is: words, and paragraphs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding
from rung.datagen.stories.judging import Known, sift_stories
from rung.datagen.wording import words
from rung.records.contracts import FilterResult
from rung.records.types import Story

__all__ = ["Length"]


class Length:
    """Drops "too_short", "too_long", "too_few_paragraphs" and "too_many_paragraphs"; an empty line parts paragraphs."""

    class Settings(BaseSettings):
        """Limits, both ends allowed."""

        min_words: int = Field(30, ge=1, description="fewest words")
        max_words: int = Field(300, ge=1, description="most words")
        min_paragraphs: int = Field(1, ge=1, description="fewest paragraphs")
        max_paragraphs: int = Field(8, ge=1, description="most paragraphs")

    EXAMPLES = (
        ("The cat sat. " * 12, ""),
        ("The cat sat.", "too_short"),
        ("The cat sat. " * 120, "too_long"),
        ("The cat sat on a mat.\n\n" * 9, "too_many_paragraphs"),
    )

    def __init__(self, settings: Settings, known: Known) -> None:
        self.settings = settings

    def apply(self, stories: Sequence[Story]) -> FilterResult:
        """Keep the stories within the limits, in order."""
        return sift_stories("length", stories, self._find)

    def _find(self, story: Story) -> Finding | None:
        own, end = self.settings, len(story.text)
        num_words, num_paragraphs = (
            len(words(story.text)),
            len(re.findall(r"\S[^\n]*(?:\n(?!\s*\n)[^\n]*)*", story.text)),
        )
        rules = (
            ("too_short", num_words < own.min_words),
            ("too_long", num_words > own.max_words),
            ("too_few_paragraphs", num_paragraphs < own.min_paragraphs),
            ("too_many_paragraphs", num_paragraphs > own.max_paragraphs),
        )
        return next((Finding(rule, (0, end)) for rule, broken in rules if broken), None)
