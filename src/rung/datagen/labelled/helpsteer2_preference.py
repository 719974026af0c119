"""HelpSteer2's preferences (arXiv 2410.01257): two answers and a strength from -3 to 3, a file in its layout.

A strength of 0 is a tie and makes no pair; the others keep their strength as margin.
"""

from __future__ import annotations

from pathlib import Path

from rung.base.settings import Field, Settings
from rung.datagen.labelled_set import LabelledSet, json_lines
from rung.datagen.preference_labels import from_helpsteer2_preference
from rung.datagen.preference_ranking import ranked_pairs

__all__ = ["HelpSteer2Preference"]


class HelpSteer2PreferenceSettings(Settings):
    """Which file."""

    file: str = Field(min_length=1, description="JSON lines with prompt, response_1, response_2, preference_strength")


class HelpSteer2Preference:
    """Preference pairs with strengths."""

    Settings = HelpSteer2PreferenceSettings

    def __init__(self, settings: HelpSteer2PreferenceSettings) -> None:
        self.settings = settings

    def make(self) -> LabelledSet:
        """Every pair of the file that is no tie."""
        found = json_lines(Path(self.settings.file))
        rankings = [from_helpsteer2_preference(record, place) for place, record in found]
        return LabelledSet(pairs=ranked_pairs(rankings).pairs)
