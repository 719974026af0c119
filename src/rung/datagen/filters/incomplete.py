"""Answers that start well and stop: a colon, a bare hyphen, an open fence, a fragment, prose without an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import sift
from rung.datagen.heuristics import incomplete
from rung.records.contracts import FilterResult

__all__ = ["Incomplete"]


class Incomplete:
    """Drops what `incomplete` finds, each with the rule's name as its reason and the matched span."""

    class Settings(BaseSettings):
        """Nothing to set: the rules are fixed, and validated as they are."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def apply(self, records: Sequence[Any]) -> FilterResult:
        """Keep the records without a finding, in order."""
        return sift("incomplete", records, incomplete)
