"""Letter case: everything in capitals, everything small, or every word capitalised.

Judges letters only. In title case, short joining words (of, the, and, ...) may stay small after the first word.
Refuses a reply without letters.
"""

from __future__ import annotations

from typing import Literal

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.verifier import Verifier, verdict

__all__ = ["CaseFormat"]

_SMALL = frozenset(
    ["a", "an", "and", "as", "at", "but", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"]
)


class CaseFormatSettings(Settings):
    """The case."""

    style: Literal["upper", "lower", "title"] = Field(description="the case asked for")


class CaseFormat(Verifier[CaseFormatSettings]):
    """Whether the reply keeps to a letter case."""

    Settings = CaseFormatSettings
    EXAMPLES = (
        ({"style": "upper"}, "I LIKE 7 CAF\u00c9S!", True),
        ({"style": "upper"}, "I LIKE tEA", False),
        ({"style": "lower"}, "i like tea.", True),
        ({"style": "lower"}, "I like tea.", False),
        ({"style": "title"}, "The Wind in the Willows", True),
        ({"style": "title"}, "The wind in the willows", False),
        ({"style": "upper"}, "123!", False),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        tokens = [letters for word in reply.split() if (letters := "".join(c for c in word if c.isalpha()))]
        if not tokens:
            return verdict(False, "no letters")
        wrong = [token for i, token in enumerate(tokens) if not self._keeps(token, first=i == 0)]
        return verdict(not wrong, f"not {self.settings.style}: {wrong[:3]}" if wrong else self.settings.style)

    def _keeps(self, token: str, first: bool) -> bool:
        if self.settings.style == "title":
            return token[0].isupper() or (not first and token in _SMALL)
        return token == (token.upper() if self.settings.style == "upper" else token.lower())
