"""Responses that run into a new prompt. Length is a figure of quality control; it drops only when told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding, Subject, sift
from rung.datagen.heuristics import MAX_CHARACTERS, runaway, runaway_pattern
from rung.records.contracts import FilterResult

__all__ = ["Runaway"]


class Runaway:
    """Drops new-prompt patterns, with the span of the line that opens the new prompt."""

    class Settings(BaseSettings):
        """Whether length alone drops."""

        drop_long: bool = Field(default=False, description="also drop responses that are only too long")
        max_characters: int = Field(default=MAX_CHARACTERS, ge=1, description="longer than this counts as too long")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def _find(self, subject: Subject) -> Finding | None:
        if self.settings.drop_long:
            return runaway(subject, self.settings.max_characters)
        return runaway_pattern(subject.text)

    def apply(self, records: Sequence[Any]) -> FilterResult:
        """Keep the records without a finding, in order."""
        return sift("runaway", records, self._find)
