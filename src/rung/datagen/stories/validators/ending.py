"""Whether a story ends: with a full sentence, and not because the limit of tokens came."""

from __future__ import annotations

from collections.abc import Sequence

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding, subject_of
from rung.datagen.heuristics import incomplete
from rung.datagen.stories.judging import Known, sift_stories
from rung.records.contracts import FilterResult
from rung.records.types import Story

__all__ = ["Ending"]

_QUOTES = "\"'\u201d\u2019)*"


class Ending:
    """Drops "cut_by_limit", "open_quote" and what `incomplete` finds, by the rule's name."""

    class Settings(BaseSettings):
        """What counts as an end."""

        allow_limit: bool = Field(False, description="take a story that the limit ended right after a full sentence")

    EXAMPLES = (
        ("They all went home and slept.", ""),
        ('"Good night," said Tom.', ""),
        ("They all went home and", "dangling_word"),
        ("They went home", "no_end"),
        ('"Good night, said Tom.', "open_quote"),
    )

    def __init__(self, settings: Settings, known: Known) -> None:
        self.settings = settings

    def apply(self, stories: Sequence[Story]) -> FilterResult:
        """Keep the stories with an end, in order."""
        return sift_stories("ending", stories, self._find)

    def _find(self, story: Story) -> Finding | None:
        text, end = story.text.rstrip(), len(story.text.rstrip())
        closed = text.rstrip(_QUOTES).endswith((".", "!", "?", "\u2026"))
        if story.finish_reason == "length" and not (closed and self.settings.allow_limit):
            return Finding("cut_by_limit", (max(0, end - 1), end))
        if not closed:
            return incomplete(subject_of(story)) or Finding("no_end", (max(0, end - 1), end))
        opened = text.count("\u201c") - text.count("\u201d")
        if text.count('"') % 2 or opened > 0:
            return Finding("open_quote", (max(text.rfind('"'), text.rfind("\u201c")), end))
        return None
