"""Instructions that cannot stand alone: unfinished, a statement, their input missing, their answer already inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding, Subject, sift
from rung.datagen.heuristics import unfit
from rung.records.contracts import FilterResult

__all__ = ["InstructionSanity"]


class InstructionSanity:
    """Drops what `unfit` finds in the instruction, of an `Instruction` or of a pair."""

    class Settings(BaseSettings):
        """Bounds on length, in words."""

        min_words: int = Field(default=3, ge=1, description="shorter instructions are dropped")
        max_words: int = Field(default=50, ge=1, description="longer instructions are dropped")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def _find(self, subject: Subject) -> Finding | None:
        return unfit(subject, self.settings.min_words, self.settings.max_words)

    def apply(self, records: Sequence[Any]) -> FilterResult:
        """Keep the records without a finding, in order."""
        return sift("instruction_sanity", records, self._find)
