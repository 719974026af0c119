"""Solutions with labelled steps, a file in the layout of stepwise supervision: `prompt`, `completions`, `labels`.

`labels` are true, false or null, one for each completion. The last completion is the conclusion: its label is that of
the whole, unless `coherent` (0 to 1) says something else. Solutions of a single line have no step and no label.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.base.errors import DataError
from rung.base.settings import Field, Settings
from rung.datagen.labelled_set import LabelledSet, LabelledSolution, json_lines, solution

__all__ = ["Steps"]


class StepsSettings(Settings):
    """Which file."""

    file: str = Field(min_length=1, description="JSON lines with prompt, completions and labels")


class Steps:
    """Labelled solutions."""

    Settings = StepsSettings

    def __init__(self, settings: StepsSettings) -> None:
        self.settings = settings

    def make(self) -> LabelledSet:
        """Every solution of the file that has a label."""
        found = [_read(record, place) for place, record in json_lines(Path(self.settings.file))]
        labelled = [one for one in found if any(v is not None for v in (*one.soundness, one.coherence))]
        return LabelledSet(solutions=tuple(labelled))


def _read(record: Mapping[str, Any], place: str) -> LabelledSolution:
    prompt, lines, labels = (record.get(name) for name in ("prompt", "completions", "labels"))
    if not isinstance(prompt, str) or not isinstance(lines, list) or not isinstance(labels, list):
        raise DataError("a solution needs prompt (text), completions and labels (lists)", place=place)
    if not lines or len(lines) != len(labels) or not all(isinstance(line, str) and line.strip() for line in lines):
        raise DataError(f"{len(lines)} completions and {len(labels)} labels do not fit", place=place)
    values = [_share(label, place) for label in labels]
    coherent = _share(record["coherent"], place) if "coherent" in record else values[-1]
    return solution(prompt, [line.strip() for line in lines], values[:-1], coherent)


def _share(label: Any, place: str) -> float | None:
    """A label from 0 to 1, None where there is none."""
    if label is None:
        return None
    if not isinstance(label, (bool, int, float)) or not 0 <= float(label) <= 1:
        raise DataError(f"a label is true, false, null or a number from 0 to 1, got {label!r:.40}", place=place)
    return float(label)
