"""Replies written beforehand: tests, and a dry run of everything around a review. No network, no login."""

from __future__ import annotations

from typing import ClassVar

from rung.base.settings import Field
from rung.pipeline.review.reviewer import Asked, OpenCompleter, Said
from rung.pipeline.review.settings import ReviewerSettings

__all__ = ["ScriptedReviewer"]


class ScriptedReviewerSettings(ReviewerSettings):
    """What is played."""

    replies: tuple[str, ...] = Field(min_length=1, description="replies in order; the last is given from then on")


class ScriptedReviewer:
    """Plays `replies`, whatever is asked."""

    Settings: ClassVar[type[ScriptedReviewerSettings]] = ScriptedReviewerSettings

    def __init__(self, settings: ScriptedReviewerSettings, open_completer: OpenCompleter | None = None) -> None:
        self.settings, self._num_asked = settings, 0

    def missing(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def ask(self, asked: Asked) -> Said:
        """The next reply."""
        index = min(self._num_asked, len(self.settings.replies) - 1)
        self._num_asked += 1
        return Said(self.settings.replies[index])
