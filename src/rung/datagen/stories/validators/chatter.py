"""Words around the story: "Sure, here is a story", a heading, a note to the reader, the request said again."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding
from rung.datagen.heuristics import runaway_pattern
from rung.datagen.stories.judging import Known, sift_stories
from rung.records.contracts import FilterResult
from rung.records.types import Story

__all__ = ["Chatter"]

_OPENING = re.compile(
    r"\A\s*(?:sure|certainly|of course|okay|here(?:'s| is| are)|this is (?:a|the) (?:short )?story|title\b|story:|"
    r"(?:once again, )?write a|i (?:can|will|would|am|'ll)\b.{0,20}\bstory)|\A\s*[#*_]+",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    r"\b(?:this story|the story) (?:is (?:about|for)|has|uses|teaches|should|must)\b|\bas an ai\b|\b\d+ words\b|"
    r"\bthe words? [\"'\u201c]|^\s*(?:note|moral|the end of the story|words used|features?)\s*:|"
    r"\bi hope you\b|\bword count\b|^\s*#+\s*\w",
    re.IGNORECASE | re.MULTILINE,
)


class Chatter:
    """Drops "preface", "aside" and "new_prompt", with the span of the words."""

    class Settings(BaseSettings):
        """Nothing to set: the rules are fixed."""

    EXAMPLES = (
        ("Once there was a cat. It was fat.", ""),
        ("Sure! Here is a story about a cat.", "preface"),
        ("**The Cat**\n\nOnce there was a cat.", "preface"),
        ("Once there was a cat. This story teaches us to share.", "aside"),
        ("Once there was a cat.\n##End###", "aside"),
        ("Once there was a cat.\nUser: another one", "new_prompt"),
    )

    def __init__(self, settings: Settings, known: Known) -> None:
        self.settings = settings

    def apply(self, stories: Sequence[Story]) -> FilterResult:
        """Keep the stories that are nothing but a story, in order."""
        return sift_stories("chatter", stories, self._find)

    def _find(self, story: Story) -> Finding | None:
        if found := runaway_pattern(story.text):
            return Finding("new_prompt", found.span)
        for rule, pattern in (("preface", _OPENING), ("aside", _ASIDE)):
            if match := pattern.search(story.text):
                return Finding(rule, match.span())
        return None
