"""Words that have no place in a story for children: those that the list of words blocks, in any form."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding
from rung.datagen.stories.inflect import forms
from rung.datagen.stories.judging import Known, sift_stories
from rung.records.contracts import FilterResult
from rung.records.types import Story

__all__ = ["BlockedWords"]


class BlockedWords:
    """Drops "blocked_word", with the word's span."""

    class Settings(BaseSettings):
        """Nothing to set: the list of words says what is blocked."""

    EXAMPLES = (
        ("The kind dog skilled in many games came home.", ""),
        ("The wolf killed the sheep.", "blocked_word"),
        ("The man had two guns.", "blocked_word"),
    )

    def __init__(self, settings: Settings, known: Known) -> None:
        self.settings = settings
        words = {f for word in known.vocabulary.limits.blocked for f in forms(word, known.vocabulary.irregular)}
        self._pattern = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, words)))})\b", re.IGNORECASE)

    def apply(self, stories: Sequence[Story]) -> FilterResult:
        """Keep the stories without one, in order."""
        return sift_stories("blocked_words", stories, self._find)

    def _find(self, story: Story) -> Finding | None:
        match = self._pattern.search(story.text)
        return Finding("blocked_word", match.span()) if match else None
