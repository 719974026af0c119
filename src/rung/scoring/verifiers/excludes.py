"""Forbidden content: words that must not occur anywhere in the reply.

Whole words, case and accents aside, a plural ending counts as the word. It also offers `letters`: characters that
must not occur at all ("do not use the letter e"). It does not see a forbidden idea in other words.
"""

from __future__ import annotations

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.reading import fold, mentions
from rung.scoring.verifier import Verifier, verdict

__all__ = ["Excludes"]


class ExcludesSettings(Settings):
    """What must not be there."""

    words: tuple[str, ...] = Field(default=(), description="words or phrases; `*` at the end lets a word go on")
    letters: str = Field(default="", description="characters none of which may occur")


class Excludes(Verifier[ExcludesSettings]):
    """Whether the reply keeps clear of what is forbidden."""

    Settings = ExcludesSettings
    EXAMPLES = (
        ({"words": ["ant"]}, "An elephant is giant.", True),
        ({"words": ["ant"]}, "ANTS are small.", False),
        ({"words": ["of course"]}, "Of  course, I will.", False),
        ({"words": ["happ*"]}, "What happiness!", False),
        ({"letters": "e"}, "A dog ran past.", True),
        ({"letters": "e"}, "THE dog", False),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        found = [word for word in self.settings.words if mentions([word], reply)]
        found += [letter for letter in self.settings.letters if letter.casefold() in fold(reply)]
        return verdict(not found, f"has {found[:3]}" if found else "clear")
