"""A number of words that the instruction itself asks for: at least, at most, exactly.

A word is what stands between spaces and holds a letter or digit. The only verifier besides `line_count` that looks at
how much was written, and only for items that state a limit.
"""

from __future__ import annotations

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.verifier import Verifier, verdict

__all__ = ["WordLimit"]


class WordLimitSettings(Settings):
    """The limits the instruction states."""

    minimum: int = Field(default=1, ge=1, description="fewest words")
    maximum: int = Field(default=10_000, ge=1, description="most words")


class WordLimit(Verifier[WordLimitSettings]):
    """Whether the reply keeps a stated number of words."""

    Settings = WordLimitSettings
    EXAMPLES = (
        ({"maximum": 1}, "Well-being.", True),
        ({"maximum": 1}, "Paris is", False),
        ({"minimum": 3, "maximum": 3}, "We are here !", True),
        ({"minimum": 3, "maximum": 3}, "We are", False),
        ({"minimum": 2}, "- one\n- two", True),
        ({"minimum": 2}, "...", False),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        count = sum(any(c.isalnum() for c in word) for word in reply.split())
        return verdict(self.settings.minimum <= count <= self.settings.maximum, f"{count} words")
