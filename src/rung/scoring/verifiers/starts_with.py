"""A beginning the instruction asks for.

Accepts a reply whose first words are one of `beginnings`, quotation marks before them aside. Case counts
only where `case_sensitive` says so. A beginning without letters or digits (a "-") is compared as characters.
"""

from __future__ import annotations

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.reading import words
from rung.scoring.verifier import Verifier, verdict

__all__ = ["StartsWith"]

_QUOTES = "\"'\u201c\u201d\u2018\u2019*_ \n"


class StartsWithSettings(Settings):
    """The beginning."""

    beginnings: tuple[str, ...] = Field(min_length=1, description="any one of these")
    case_sensitive: bool = Field(default=False, description="compare characters as they are")


class StartsWith(Verifier[StartsWithSettings]):
    """Whether the reply begins as asked."""

    Settings = StartsWithSettings
    EXAMPLES = (
        ({"beginnings": ["Once upon a time"]}, "\u201cOnce upon a time, a fox lived here.", True),
        ({"beginnings": ["Once upon a time"]}, "There was, once upon a time, a fox.", False),
        ({"beginnings": ["Yes"]}, "Yesterday was fine.", False),
        ({"beginnings": ["-"]}, "- milk", True),
        ({"beginnings": ["Dear"], "case_sensitive": True}, "dear sir", False),
        ({"beginnings": ["Dear"], "case_sensitive": True}, "Dear Sir", True),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        text = reply.strip(_QUOTES)
        return verdict(any(self._begins(text, begin) for begin in self.settings.beginnings), f"begins {text[:30]!r}")

    def _begins(self, text: str, begin: str) -> bool:
        wanted = words(begin)
        if not wanted or (self.settings.case_sensitive and not text.startswith(begin)):
            return bool(not wanted) and text.startswith(begin)
        return words(text)[: len(wanted)] == wanted
