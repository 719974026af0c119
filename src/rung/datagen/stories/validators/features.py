"""Whether the features that were asked for show, by the evidence of words that the file of features names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding
from rung.datagen.stories.judging import Known, sift_stories
from rung.records.contracts import FilterResult
from rung.records.types import Story

__all__ = ["FeaturesShow"]


class FeaturesShow:
    """Drops "missing_feature" where fewer than `min_share` of the features (rounded up) show."""

    class Settings(BaseSettings):
        """How many of them must show."""

        min_share: float = Field(1.0, ge=0, le=1, description="share of the features asked for that must show")

    EXAMPLES = (
        ('"Come in," said the cat, and they smiled.', ""),
        ("The cat let them in, and they smiled.", "missing_feature"),
    )

    def __init__(self, settings: Settings, known: Known) -> None:
        self.settings, self._features = settings, known.features

    def apply(self, stories: Sequence[Story]) -> FilterResult:
        """Keep the stories whose features show, in order."""
        return sift_stories("features", stories, self._find)

    def _find(self, story: Story) -> Finding | None:
        needed = math.ceil(len(story.features) * self.settings.min_share)
        there = [name for name in story.features if self._features[name].in_text(story.text)]
        return Finding("missing_feature", (0, len(story.text))) if len(there) < needed else None
