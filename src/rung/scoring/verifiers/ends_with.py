"""An ending the instruction asks for: last words, or a last mark such as "!" or "?".

Accepts a reply whose last words are one of `endings`, closing punctuation and quotation marks aside; an ending without
letters or digits must be the very last characters.
"""

from __future__ import annotations

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.reading import words
from rung.scoring.verifier import Verifier, verdict

__all__ = ["EndsWith"]

_QUOTES = "\"'\u201c\u201d\u2018\u2019*_ \n"


class EndsWithSettings(Settings):
    """The ending."""

    endings: tuple[str, ...] = Field(min_length=1, description="any one of these")


class EndsWith(Verifier[EndsWithSettings]):
    """Whether the reply ends as asked."""

    Settings = EndsWithSettings
    EXAMPLES = (
        ({"endings": ["the end"]}, "They slept. The End.", True),
        ({"endings": ["the end"]}, "The end is near.", False),
        ({"endings": ["?"]}, 'Is it late?"', True),
        ({"endings": ["?"]}, "Is it late? Yes.", False),
        ({"endings": ["night"]}, "We met at midnight", False),
        ({"endings": ["!"]}, "What a day!\n", True),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        text = reply.strip(_QUOTES)
        return verdict(any(self._ends(text, end) for end in self.settings.endings), f"ends {text[-30:]!r}")

    @staticmethod
    def _ends(text: str, end: str) -> bool:
        wanted = words(end)
        return words(text)[-len(wanted) :] == wanted if wanted else text.endswith(end)
