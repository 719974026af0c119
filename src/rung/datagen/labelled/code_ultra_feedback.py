"""CodeUltraFeedback (arXiv 2403.09032): several models' answers, each rated 1 to 5 in one of five code preferences."""

from __future__ import annotations

from pathlib import Path

from rung.base.settings import Field, Settings
from rung.datagen.labelled_set import LabelledSet, json_lines
from rung.datagen.preference_labels import from_code_ultra_feedback

__all__ = ["CodeUltraFeedback"]


class CodeUltraFeedbackSettings(Settings):
    """Which file."""

    file: str = Field(min_length=1, description="JSON lines with instruction, preference, responses and annotations")


class CodeUltraFeedback:
    """Labelled answers."""

    Settings = CodeUltraFeedbackSettings

    def __init__(self, settings: CodeUltraFeedbackSettings) -> None:
        self.settings = settings

    def make(self) -> LabelledSet:
        """Every answer of the file that was rated."""
        found = [one for place, record in json_lines(Path(self.settings.file))
                 for one in from_code_ultra_feedback(record, place)]  # fmt: skip
        rated = tuple(one for one in found if any(label.value is not None for label in one.labels.values()))
        return LabelledSet(answers=rated)
