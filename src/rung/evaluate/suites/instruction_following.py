"""Held-out instructions whose answers can be checked: ten types, from capitals to safety, within reach of small models.

Written for rung by hand; `family` names the kind of item that statistics cluster by. Every reference answer passes
its own checks, and an empty answer, an echo of the instruction and rambling text pass none (a test runs them all).
No item may be used for training, few-shots or tuning: `overlap` in `evaluate.item_set` finds those that were.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from rung.base.settings import Field, Settings
from rung.evaluate.item_set import choose, read_items, version_of
from rung.records.types import TestItem

__all__ = ["InstructionFollowing"]

_FILE = Path(__file__).parent / "_instruction_following.jsonl"


class InstructionFollowingSettings(Settings):
    """Which of the items to use; the default is all of them."""

    count: int = Field(default=0, ge=0, description="how many items, near-equal over types; 0: all")
    types: tuple[str, ...] = Field(default=(), description="types to use; none: all")
    seed: int = Field(default=0, ge=0, description="of the choice when `count` is smaller than the set")


class InstructionFollowing:
    """The suite; `version` changes with any change of the items chosen."""

    Settings = InstructionFollowingSettings

    def __init__(self, settings: InstructionFollowingSettings) -> None:
        self.settings = settings

    def items(self) -> list[TestItem]:
        """The chosen items, in the order of the file."""
        return choose(_all_items(), self.settings.count, self.settings.types, self.settings.seed)

    @property
    def version(self) -> str:
        """Hash of the chosen items."""
        return version_of(self.items())


@lru_cache(maxsize=1)
def _all_items() -> tuple[TestItem, ...]:
    return tuple(read_items(_FILE))
