"""One of several options the instruction offers: yes or no, positive or negative, which of two, the odd one out.

Accepts a reply whose first asserting sentence settles on the right option: a leading "between X and Y" and everything
after "than", "rather than" or "not" is left aside, and of what remains the right option must be there and no other.
Also accepts a stated conclusion ("so the answer is ...").

Refuses several options at once, and an option that comes only later. It does not weigh reasons.
"""

from __future__ import annotations

import re

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.reading import conclusion, enumerated, lead, mentions
from rung.scoring.verifier import Verifier, verdict

__all__ = ["Choice"]

_PREFACE = re.compile(r"^\W*(?:between|out of|of|comparing|among|from)\b[^,]*,", re.I)
_REJECTED = re.compile(r"\b(?:rather than|instead of|than|unlike|compared (?:to|with)|as opposed to)\b.*$", re.I)
_NOT = re.compile(r"\b(?:not|isn't|is not|aren't)\s+(?:(?:a|an|the|very)\s+)?[\w-]+", re.I)


class ChoiceSettings(Settings):
    """The right option and the others; `|` separates spellings of one option."""

    answer: str = Field(min_length=1, description="the right option, spellings separated by |")
    others: tuple[str, ...] = Field(min_length=1, description="the wrong options, spellings separated by |")


class Choice(Verifier[ChoiceSettings]):
    """Whether the reply settles on the right option."""

    Settings = ChoiceSettings
    EXAMPLES = (
        ({"answer": "elephant", "others": ["ant"]}, "An ant is larger than an elephant.", False),
        ({"answer": "elephant", "others": ["ant"]}, "Between an ant and an elephant, the elephant is larger.", True),
        ({"answer": "elephant", "others": ["ant"]}, "An elephant is much larger than an ant.", True),
        ({"answer": "negative", "others": ["positive", "neutral"]}, "It is not positive, it is negative.", True),
        ({"answer": "negative", "others": ["positive"]}, "Positive or negative.", False),
        ({"answer": "no", "others": ["yes"]}, "No. Fish cannot walk.", True),
        ({"answer": "no", "others": ["yes"]}, "Yes, no problem.", False),
        ({"answer": "no", "others": ["yes"]}, "I know nothing.", False),
        ({"answer": "house", "others": ["seven"]}, "House, tree, river, stone", False),
        ({"answer": "car", "others": ["apple", "pear"]}, "Apple, pear, car", False),
        ({"answer": "car", "others": ["apple", "pear"]}, "Car, because it is not a fruit.", True),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        said = lead(reply)[:1] or [reply]
        for sentence in [*said, conclusion(reply)]:
            kept = self._settled(sentence)
            if not mentions([*self._right, *self._wrong], kept):
                continue
            if mentions(self._wrong, kept):
                return verdict(False, f"names another option: {kept[:60]!r}")
            if entries := enumerated(self._right, kept):
                return verdict(False, f"lists several candidates: {entries[:4]}")
            return verdict(True, kept[:60])
        return verdict(False, f"does not settle on an option: {said[0][:60]!r}")

    @property
    def _right(self) -> list[str]:
        return self.settings.answer.split("|")

    @property
    def _wrong(self) -> list[str]:
        return [spelling for option in self.settings.others for spelling in option.split("|")]

    def _settled(self, sentence: str) -> str:
        """The sentence without what it sets aside; "not X" goes only when something else is left to settle on."""
        kept = _REJECTED.sub("", _PREFACE.sub("", sentence))
        without = _NOT.sub("", kept)
        return without if mentions([*self._right, *self._wrong], without) else ""
