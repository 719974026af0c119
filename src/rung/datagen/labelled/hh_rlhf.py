"""hh-rlhf (arXiv 2204.05862): two dialogues that differ in the assistant's last turn, the preferred one first.

The dialogue before that turn is the instruction. With `last_turn` it is the human's last turn alone, which is cheaper
to read and leaves out what was said before. Pairs whose dialogues differ earlier than in the last turn are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.base.errors import DataError
from rung.base.settings import Field, Settings
from rung.datagen.labelled_set import LabelledSet, json_lines
from rung.records.chat.frame import Frame
from rung.records.types import PreferencePair, record_id

__all__ = ["HhRlhf"]

_ASSISTANT, _HUMAN = "\n\nAssistant:", "\n\nHuman:"


class HhRlhfSettings(Settings):
    """Which file, and how much of a dialogue is kept."""

    file: str = Field(min_length=1, description="JSON lines with chosen and rejected, gzipped or not")
    last_turn: bool = Field(False, description="keep the human's last turn alone before the answers")


class HhRlhf:
    """Preference pairs of people."""

    Settings = HhRlhfSettings

    def __init__(self, settings: HhRlhfSettings) -> None:
        self.settings = settings

    def make(self) -> LabelledSet:
        """Every pair of the file that is one: a common dialogue and two different answers that say something."""
        found = [self._pair(record, place) for place, record in json_lines(Path(self.settings.file))]
        return LabelledSet(pairs=tuple(one for one in found if one is not None))

    def _pair(self, record: Mapping[str, Any], place: str) -> PreferencePair | None:
        (before, chosen), (other, rejected) = (_parted(record, side, place) for side in ("chosen", "rejected"))
        if before != other or chosen == rejected or not (before and chosen and rejected):
            return None
        asked = before.rpartition(_HUMAN)[2].strip() if self.settings.last_turn else before
        return PreferencePair(
            id=record_id("pair", before, chosen, rejected),
            instruction=asked,
            type="dialogue",
            prompt=Frame.prompt(asked),
            chosen=chosen,
            rejected=rejected,
            kind="human",
            chosen_source="hh-rlhf",
            rejected_source="hh-rlhf",
        )


def _parted(record: Mapping[str, Any], side: str, place: str) -> tuple[str, str]:
    """The dialogue before the assistant's last turn, and that turn."""
    text = record.get(side)
    if not isinstance(text, str) or _ASSISTANT not in text:
        raise DataError(f"'{side}' must be a dialogue with an assistant's turn", place=place)
    before, _, last = text.rpartition(_ASSISTANT)
    return before.strip(), last.strip()
