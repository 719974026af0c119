"""Whether a young child could follow: the reading grade, and the longest sentence.

The grade is Flesch's and Kincaid's (1975): 0.39 words per sentence + 11.8 syllables per word - 15.59. It knows nothing
of meaning: easy words in short sentences can still make no sense.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding
from rung.datagen.stories.judging import Known, sift_stories
from rung.datagen.stories.vocabulary import syllables
from rung.datagen.wording import words
from rung.records.contracts import FilterResult
from rung.records.types import Story

__all__ = ["Simplicity"]

_SENTENCE = re.compile(r"[^.!?\n]*\w[^.!?\n]*")


class Simplicity:
    """Drops "hard_to_read" by the grade and "long_sentence", with the sentence's span."""

    class Settings(BaseSettings):
        """Limits."""

        max_grade: float = Field(6.0, ge=-5, le=20, description="highest reading grade")
        max_sentence: int = Field(40, ge=5, description="most words in a sentence")

    EXAMPLES = (
        ("The dog ran to the park. He saw a red ball. He took it home.", ""),
        ("The " + "very " * 50 + "big dog ran home.", "long_sentence"),
        ("Extraordinary mathematical considerations characterise contemporary institutions.", "hard_to_read"),
    )

    def __init__(self, settings: Settings, known: Known) -> None:
        self.settings = settings

    def apply(self, stories: Sequence[Story]) -> FilterResult:
        """Keep the stories that are easy enough, in order."""
        return sift_stories("simplicity", stories, self._find)

    def _find(self, story: Story) -> Finding | None:
        sentences = list(_SENTENCE.finditer(story.text))
        for sentence in sentences:
            if len(words(sentence.group())) > self.settings.max_sentence:
                return Finding("long_sentence", sentence.span())
        spoken = words(story.text)
        if not spoken:
            return Finding("hard_to_read", (0, len(story.text)))
        grade = 0.39 * len(spoken) / len(sentences) + 11.8 * sum(map(syllables, spoken)) / len(spoken) - 15.59
        return Finding("hard_to_read", (0, len(story.text))) if grade > self.settings.max_grade else None
