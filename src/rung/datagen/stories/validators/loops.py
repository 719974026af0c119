"""Stories that go round in circles: a sentence or phrase that comes again, or few different runs of three words."""

from __future__ import annotations

from collections.abc import Sequence

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding, Subject
from rung.datagen.heuristics import repetition
from rung.datagen.stories.judging import Known, sift_stories
from rung.datagen.wording import words
from rung.records.contracts import FilterResult
from rung.records.types import Story

__all__ = ["Loops"]


class Loops:
    """Drops what `repetition` finds, by the rule's name, and "few_trigrams"."""

    class Settings(BaseSettings):
        """The limit."""

        min_trigrams: float = Field(0.8, ge=0, le=1, description="share of runs of three words that must be different")

    EXAMPLES = (
        ("The dog ran to the park. He saw a red ball. He took it home.", ""),
        ("They loved to play all day long. They loved to play all day long.", "repeated_unit"),
        ("so very big dog so very big cat so very big fish so very big hen so very big cow", "few_trigrams"),
    )

    def __init__(self, settings: Settings, known: Known) -> None:
        self.settings = settings

    def apply(self, stories: Sequence[Story]) -> FilterResult:
        """Keep the stories that do not loop, in order."""
        return sift_stories("loops", stories, self._find)

    def _find(self, story: Story) -> Finding | None:
        if found := repetition(Subject("", story.text)):
            return found
        spoken = words(story.text)
        runs = list(zip(spoken, spoken[1:], spoken[2:], strict=False))
        share = len(set(runs)) / len(runs) if runs else 1.0
        return Finding("few_trigrams", (0, len(story.text))) if share < self.settings.min_trigrams else None
