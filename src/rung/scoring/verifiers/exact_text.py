"""An exact string: a word copied, reversed, spelled out, put in capitals.

Accepts a first line that is one of `texts`, quotation marks and a final stop aside; also with an introduction that
ends in a colon or in "is" ("The word is: tac"). Case counts where `case_sensitive` says so; spaces are single.
Refuses the text with anything else after it on its line.
"""

from __future__ import annotations

import re

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.verifier import Verifier, verdict

__all__ = ["ExactText"]

_MARKS = "\"'\u201c\u201d\u2018\u2019`*_ \t"


class ExactTextSettings(Settings):
    """The string."""

    texts: tuple[str, ...] = Field(min_length=1, description="any one of these")
    case_sensitive: bool = Field(default=False, description="whether capitals must agree")


class ExactText(Verifier[ExactTextSettings]):
    """Whether the reply is exactly the text asked for."""

    Settings = ExactTextSettings
    EXAMPLES = (
        ({"texts": ["tac"]}, "\u201ctac\u201d.", True),
        ({"texts": ["tac"]}, "The reversed word is: 'Tac'", True),
        ({"texts": ["tac"]}, "tac cat", False),
        ({"texts": ["tac"]}, "attack", False),
        ({"texts": ["HELLO"], "case_sensitive": True}, "hello", False),
        ({"texts": ["HELLO"], "case_sensitive": True}, "HELLO!", True),
        ({"texts": ["c-a-t"]}, "C-A-T\n\nThat spells cat.", True),
        ({"texts": ["a b"]}, "a   b", True),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        line = next(line for line in reply.split("\n") if line.strip())
        forms = {self._plain(line), *map(self._plain, re.split(r"(?::|\bis\b)\s*", line)[-1:])}
        if line.rstrip().endswith(":"):
            following = [other for other in reply.split("\n") if other.strip()][1:2]
            forms.update(map(self._plain, following))
        return verdict(bool(forms & set(map(self._plain, self.settings.texts))), f"first line {line[:40]!r}")

    def _plain(self, text: str) -> str:
        plain = " ".join(text.split()).strip(_MARKS).rstrip(".!").strip(_MARKS)
        return plain if self.settings.case_sensitive else plain.casefold()
