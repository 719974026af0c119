"""A number of lines, sentences or paragraphs that the instruction itself asks for.

Lines are those with a letter or digit; paragraphs are separated by blank lines; sentences end in . ! ? or at a line's
end, common abbreviations aside. It looks at amount only because the instruction states one.
"""

from __future__ import annotations

import re
from typing import Literal

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.reading import sentences, words
from rung.scoring.verifier import Verifier, verdict

__all__ = ["LineCount"]


class LineCountSettings(Settings):
    """The unit and its limits."""

    unit: Literal["line", "sentence", "paragraph"] = Field(default="line", description="what is counted")
    minimum: int = Field(default=1, ge=1, description="fewest")
    maximum: int = Field(default=10_000, ge=1, description="most")


class LineCount(Verifier[LineCountSettings]):
    """Whether the reply keeps a stated number of lines, sentences or paragraphs."""

    Settings = LineCountSettings
    EXAMPLES = (
        ({"unit": "sentence", "maximum": 1}, "Dr. J. Smith lives here.", True),
        ({"unit": "sentence", "maximum": 1}, "It rains. It pours.", False),
        ({"unit": "sentence", "maximum": 1}, "It costs 3.50 euros!", True),
        ({"unit": "line", "minimum": 3, "maximum": 3}, "a\n\nb\nc\n", True),
        ({"unit": "line", "minimum": 3, "maximum": 3}, "a b c", False),
        ({"unit": "paragraph", "minimum": 2, "maximum": 2}, "One.\nStill one.\n\nTwo.", True),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        count = len(self._units(reply))
        return verdict(self.settings.minimum <= count <= self.settings.maximum, f"{count} of unit {self.settings.unit}")

    def _units(self, reply: str) -> list[str]:
        if self.settings.unit == "sentence":
            return sentences(reply)
        pieces = reply.split("\n") if self.settings.unit == "line" else re.split(r"\n\s*\n", reply)
        return [piece for piece in pieces if words(piece)]
