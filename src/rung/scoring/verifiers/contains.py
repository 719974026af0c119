"""Required content: groups of words of which each (or at least so many) must be named somewhere in the reply.

Accepts any spelling of a group (`gravity|gravitation*`), as whole words, case and accents aside; `*` lets a word go
on. The whole reply counts, whatever its length. It sees words, not whether they are put together truthfully: pair it
with `excludes` or use it where naming the key facts is the point.
"""

from __future__ import annotations

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.reading import mentions
from rung.scoring.verifier import Verifier, verdict

__all__ = ["Contains"]


class ContainsSettings(Settings):
    """What must be named."""

    groups: tuple[str, ...] = Field(min_length=1, description="each a set of spellings separated by |")
    at_least: int | None = Field(default=None, ge=1, description="groups that must be named; none: all of them")


class Contains(Verifier[ContainsSettings]):
    """Whether the reply names what it must."""

    Settings = ContainsSettings
    EXAMPLES = (
        ({"groups": ["evaporat*", "rain|precipitation"]}, "Evaporation comes first, then rain.", True),
        ({"groups": ["evaporat*", "rain|precipitation"]}, "Water evaporates.", False),
        ({"groups": ["ice"]}, "The price is nice.", False),
        ({"groups": ["cafe"]}, "The Caf\u00e9s!", True),
        ({"groups": ["sun", "moon", "star"], "at_least": 2}, "Moon and stars", True),
        ({"groups": ["sun", "moon", "star"], "at_least": 2}, "Only the sun", False),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        missing = [group for group in self.settings.groups if not mentions(group.split("|"), reply)]
        named = len(self.settings.groups) - len(missing)
        wanted = self.settings.at_least or len(self.settings.groups)
        return verdict(named >= wanted, f"{named} of {wanted}" + (f", missing {missing[:3]}" if missing else ""))
