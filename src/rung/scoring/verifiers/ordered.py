"""Things in a given order: sorted words, numbers counted up or down, the steps of a sequence.

Accepts a reply in which each of `parts` occurs exactly once and in this order, whatever stands between them (commas,
new lines, numbering). Where all parts are numbers, no other number may occur. With `only`, nothing else may be listed:
the number of words must be that of the parts.
"""

from __future__ import annotations

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.reading import marked_lines, words
from rung.scoring.verifier import Verifier, verdict

__all__ = ["Ordered"]


class OrderedSettings(Settings):
    """The sequence."""

    parts: tuple[str, ...] = Field(min_length=2, description="words or numbers, in the order wanted")
    only: bool = Field(default=False, description="nothing else may stand in the reply")


class Ordered(Verifier[OrderedSettings]):
    """Whether the reply gives things in the right order."""

    Settings = OrderedSettings
    EXAMPLES = (
        ({"parts": ["apple", "kiwi", "pear"]}, "1. Apple\n2. Kiwi\n3. Pear", True),
        ({"parts": ["apple", "kiwi", "pear"]}, "Sorted: apple, kiwi, pear.", True),
        ({"parts": ["apple", "kiwi", "pear"]}, "apple, pear, kiwi", False),
        ({"parts": ["3", "2", "1"]}, "3 2 1 2 3", False),
        ({"parts": ["3", "2", "1"], "only": True}, "3, 2, 1, 0", False),
        ({"parts": ["3", "2", "1"], "only": True}, "3...2...1!", True),
        ({"parts": ["3", "2", "1"]}, "13 12 11", False),
        ({"parts": ["1", "3"]}, "1 2 3 4", False),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        entries = marked_lines(reply)
        tokens = words(" ".join(entries)) if len(entries) >= 2 else words(reply)
        parts = [word for part in self.settings.parts for word in words(part)]
        numeric = all(part.isdigit() for part in parts)
        seen = [token for token in tokens if token in set(parts) or (numeric and token.isdigit())]
        if self.settings.only and len(tokens) != len(parts):
            return verdict(False, f"{len(tokens)} words, {len(parts)} wanted")
        return verdict(seen == parts, f"order seen: {seen[:8]}")
