"""A list with the right number of entries, and entries of the right kind.

Accepts bulleted, numbered, one-per-line and comma-separated lists; entries that repeat count once. With `among`, at
least `members` entries (all that are required, when not given) must name something from it.

Refuses too few or too many entries. Without `among` it cannot see whether an entry makes sense.
"""

from __future__ import annotations

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.reading import fold, listed, mentions
from rung.scoring.verifier import Verifier, verdict

__all__ = ["CountItems"]


class CountItemsSettings(Settings):
    """How many entries, and from where."""

    minimum: int = Field(ge=1, description="fewest different entries")
    maximum: int | None = Field(default=None, ge=1, description="most entries; none: no limit")
    among: tuple[str, ...] = Field(default=(), description="what entries may name; empty: anything")
    members: int | None = Field(default=None, ge=1, description="entries that must be from `among`; none: `minimum`")


class CountItems(Verifier[CountItemsSettings]):
    """Whether the reply is a list of so many (right) things."""

    Settings = CountItemsSettings
    EXAMPLES = (
        ({"minimum": 3, "maximum": 3}, "1. Apple 2. Pear 3. Plum", True),
        ({"minimum": 3, "maximum": 3}, "Here are three:\n- apple\n- pear\n- plum\n\nEnjoy!", True),
        ({"minimum": 3, "maximum": 3}, "Apples, pears, and plums.", True),
        ({"minimum": 3, "maximum": 3}, "apple, apple, apple", False),
        ({"minimum": 3, "maximum": 3}, "apple, pear, plum, cherry, fig", False),
        ({"minimum": 2, "among": ["red", "blue", "green"]}, "The colours are red and blue.", True),
        ({"minimum": 2, "among": ["red", "blue", "green"]}, "dog and cat", False),
        ({"minimum": 3, "among": ["red", "blue"], "members": 2}, "red\nblue\npurple", True),
        ({"minimum": 3}, "An essay about fruit", False),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        settings = self.settings
        entries = listed(reply)
        different = list({fold(entry): entry for entry in entries}.values())
        if len(different) < settings.minimum:
            return verdict(False, f"{len(different)} different entries, {settings.minimum} wanted")
        if settings.maximum is not None and len(entries) > settings.maximum:
            return verdict(False, f"{len(entries)} entries, at most {settings.maximum} wanted")
        if settings.among:
            named = {name for name in settings.among if any(mentions([name], entry) for entry in different)}
            right = sum(mentions(settings.among, entry) for entry in different)
            wanted = settings.members or settings.minimum
            if min(right, len(named)) < wanted:
                return verdict(False, f"{min(right, len(named))} entries of the right kind, {wanted} wanted")
        return verdict(True, f"{len(different)} entries")
