"""One final answer in the format that the instruction asked for: a number, a text or a list. Made for rewards.

The answer is what stands behind "Answer:", "the answer is", "####" or in \\boxed{}; all such places must agree. Without
one, the first paragraph must be the answer and nothing else; a number may stand in one line with words ("12 apples"),
and of an equation counts what follows the last "=" or "is". Numbers are compared exactly, as fractions, unless a
tolerance is set: 0.333 is not 1/3. Case, quotation marks, bold and a final stop do not matter (case may be made to).

Refuses several different answers, whichever of them is right: listing all options earns nothing.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.final_segments import final_segments
from rung.scoring.verifier import Verifier, verdict

__all__ = ["FinalAnswer"]

_NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?\$?(?:\d{1,3}(?:,\d{3})+|\d{1,200})(?:\.\d{1,200})?(?:\s?/\s?\d{1,200})?(?![\w/]|[.,]\d)"
)
_RESULT = re.compile(r"=|\bis\b|\bare\b|\bequals\b|\bgives\b|\bmakes\b", re.I)
_MARKS = "\"'\u201c\u201d\u2018\u2019`*_$[]() \t"
_MOST_CHARACTERS = 20_000
_LONGEST_LINE = 200


class FinalAnswerSettings(Settings):
    """The right answer and how it is compared."""

    answer: str = Field(min_length=1, description="the right answer; the entries of a list separated by commas")
    form: Literal["number", "text", "list"] = Field(default="text", description="what is compared")
    tolerance: float = Field(default=0.0, ge=0, description="largest absolute difference of numbers; 0: exact")
    case_sensitive: bool = Field(default=False, description="whether capitals must agree")


class FinalAnswer(Verifier[FinalAnswerSettings]):
    """Whether the reply's one final answer is right."""

    Settings = FinalAnswerSettings
    EXAMPLES = (
        ({"answer": "12", "form": "number"}, "10, 11, 12, 13", False),
        ({"answer": "12", "form": "number"}, "Answer: 12\nAnswer: 13", False),
        ({"answer": "1200", "form": "number"}, "**1,200.**", True),
        ({"answer": "12", "form": "number"}, "First 5 + 7.\nSo the answer is 12.", True),
        ({"answer": "12", "form": "number"}, "5 + 7 = 12", True),
        ({"answer": "1/3", "form": "number"}, "0.333", False),
        ({"answer": "-4", "form": "number"}, "4", False),
        ({"answer": "tac"}, "\u201cTac\u201d.", True),
        ({"answer": "TAC", "case_sensitive": True}, "tac", False),
        ({"answer": "tac"}, "tac, cat or act", False),
        ({"answer": "ant, bee, cat", "form": "list"}, "Answer: ant bee cat", True),
        ({"answer": "ant, bee, cat", "form": "list"}, "1. ant\n2. cat\n3. bee", False),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        if len(reply) > _MOST_CHARACTERS:
            return verdict(False, f"longer than {_MOST_CHARACTERS} characters")
        said = final_segments(reply)
        found = [self._read(text) for text in said]
        if any(one is None for one in found):
            return verdict(False, f"no single {self.settings.form} in {said[found.index(None)][:40]!r}")
        if len(set(found)) > 1:
            return verdict(False, f"{len(set(found))} different answers")
        return verdict(self._same(found[0]), f"read {said[0][:40]!r}")

    def _read(self, text: str) -> Fraction | tuple[str, ...] | None:
        """The answer as it is compared; None when there is not exactly one."""
        if self.settings.form == "number":
            return _number(text)
        if self.settings.form == "list":
            return self._entries(text)
        plain = self._plain(text)
        return (plain,) if plain and "\n" not in text.strip() else None

    def _entries(self, text: str) -> tuple[str, ...]:
        lines = [re.sub(r"^\s*(?:[-*\u2022]|\d{1,2}[.)])\s+", "", line) for line in text.strip().split("\n")]
        parts = [part for line in lines for part in re.split(r"[,;\s]+", line)]
        return tuple(plain for part in parts if (plain := self._plain(part)))

    def _plain(self, text: str) -> str:
        plain = " ".join(text.split()).strip(_MARKS).rstrip(".!,").strip(_MARKS)
        return plain if self.settings.case_sensitive else plain.casefold()

    def _same(self, found: Fraction | tuple[str, ...] | None) -> bool:
        wanted = self._read(self.settings.answer)
        if isinstance(found, Fraction) and isinstance(wanted, Fraction):
            return abs(found - wanted) <= Fraction(self.settings.tolerance)
        return found == wanted


def _number(text: str) -> Fraction | None:
    """The one number that the text's only line states."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) != 1 or len(lines[0]) > _LONGEST_LINE:
        return None
    stated = _RESULT.split(lines[0].replace("**", ""))[-1]
    values = {_fraction(token) for token in _NUMBER.findall(stated)}
    return values.pop() if len(values) == 1 else None


def _fraction(token: str) -> Fraction | None:
    plain = token.replace(",", "").replace("$", "").replace("\u2212", "-").replace(" ", "").replace("+", "")
    top, _, bottom = plain.partition("/")
    return Fraction(top) / Fraction(bottom) if bottom and Fraction(bottom) else None if bottom else Fraction(top)
