"""Whether a story keeps to words that a child knows: those of the list, in any form, and names.

A word with a capital letter inside a sentence is taken for a name. A list of 1,700 words misses many that are easy, so
this looks at the share, not at single words.
"""

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

__all__ = ["KnownWords"]

_NAME = re.compile(r"(?<=[\w,;] )[A-Z][a-z]+")


class KnownWords:
    """Drops "unknown_words" where too many words are neither of the list nor names."""

    class Settings(BaseSettings):
        """The limit."""

        min_share: float = Field(0.75, ge=0, le=1, description="share of the story's words that must be known")

    EXAMPLES = (
        ("The dog ran to the park and Zorba saw a red ball.", ""),
        ("Photons traverse interstellar vacua unattenuated, notwithstanding dispersive plasmas.", "unknown_words"),
    )

    def __init__(self, settings: Settings, known: Known) -> None:
        self.settings, self._vocabulary = settings, known.vocabulary

    def apply(self, stories: Sequence[Story]) -> FilterResult:
        """Keep the stories of known words, in order."""
        return sift_stories("known_words", stories, self._find)

    def _find(self, story: Story) -> Finding | None:
        spoken = words(story.text)
        known = self._vocabulary.known_forms.union(*(words(name) for name in _NAME.findall(story.text)))
        share = sum(word in known for word in spoken) / max(1, len(spoken))
        return Finding("unknown_words", (0, len(story.text))) if share < self.settings.min_share else None
