"""HelpSteer2 (arXiv 2406.08673): answers labelled in five attributes from 0 to 4, a file in its layout."""

from __future__ import annotations

from pathlib import Path

from rung.base.settings import Field, Settings
from rung.datagen.labelled_set import LabelledSet, json_lines
from rung.datagen.preference_labels import from_helpsteer2

__all__ = ["HelpSteer2"]


class HelpSteer2Settings(Settings):
    """Which file."""

    file: str = Field(min_length=1, description="JSON lines with prompt, response and the five attributes")


class HelpSteer2:
    """Labelled answers."""

    Settings = HelpSteer2Settings

    def __init__(self, settings: HelpSteer2Settings) -> None:
        self.settings = settings

    def make(self) -> LabelledSet:
        """Every answer of the file."""
        found = json_lines(Path(self.settings.file))
        return LabelledSet(answers=tuple(from_helpsteer2(record, place) for place, record in found))
