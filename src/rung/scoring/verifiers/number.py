"""A number, with or without its unit.

The reply's number is, in this order: that of a first sentence which is little more than a number ("12 eggs.");
in the first paragraph, what follows the last "the answer is"; the last equation, one over the instruction's own
numbers first; the first stated result ("there are 12", "makes 12") that is no number of the instruction; at last the
only number of the first sentence that has one.

Refuses a reply that leaves several candidates, or a list of bare numbers. Number words count up to ninety-nine;
fractions such as 3/4 and powers are not read.
"""

from __future__ import annotations

import re

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.reading import bare_lines, conclusion, first_paragraph, lead, numbers_in, words
from rung.scoring.verifier import Verifier, verdict

__all__ = ["Number"]

_RESULT = re.compile(
    r"\b(?:is|are|has|have|had|equals?|makes?|gives?|leaves?|costs?|gets?|needs?|be|left with|total of)\b"
    r"\s*(?:equal to\s+|exactly\s+|about\s+|approximately\s+|a total of\s+|only\s+|\$)*",
    re.I,
)
_TOKEN = re.compile(r"[-\u2212$]?[\d,.]*\d|[A-Za-z-]+")
_OPERATOR = re.compile(r"\s*(?:[-+*/x\u00d7\u00f7]|plus|minus|times|and|or)\s+\S|,\s*\d")
_EQUATION = re.compile(r"([^=.\n]{0,60}?)=\s*([-\u2212]?\$?\d[\d,.]*)")


class NumberSettings(Settings):
    """The right value."""

    value: float = Field(description="the number asked for")
    tolerance: float = Field(default=1e-6, ge=0, description="largest absolute difference that still counts")


class Number(Verifier[NumberSettings]):
    """Whether the reply states the right number."""

    Settings = NumberSettings
    INSTRUCTION = "What is 7 plus 5?"
    EXAMPLES = (
        ({"value": 12}, "7 + 5 = 12", True),
        ({"value": 12}, "10\n11\n12", False),
        ({"value": 12}, "11, 12, 13", False),
        ({"value": 12}, "12. That is a dozen.", True),
        ({"value": 12}, "Seven plus five is twelve.", True),
        ({"value": 12}, "7 + 5 = 12. 8 + 5 = 13.", True),
        ({"value": 60}, "There are 60 minutes in 1 hour.", True),
        ({"value": 12}, "Tom had 7 apples. He bought 5 more, so he now has 12 apples.", True),
        ({"value": 1200}, "It costs $1,200.", True),
        ({"value": -4}, "The answer is -4 degrees.", True),
        ({"value": 12}, "The answer is thirteen.", False),
        ({"value": 3.14, "tolerance": 0.01}, "Pi is about 3.1416", True),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        found, how = self._stated(instruction, reply)
        if found is None:
            return verdict(False, how)
        return verdict(abs(found - self.settings.value) <= self.settings.tolerance, f"{how}: {found:g}")

    def _stated(self, instruction: str, reply: str) -> tuple[float | None, str]:
        lines = bare_lines(reply)
        if len(lines) >= 3 and len({value for line in lines for value in numbers_in(line)}) >= 3:
            return None, "lists several numbers"
        first = (lead(reply, keep_marks=True) or [reply])[0]
        alone = numbers_in(first)
        if len(alone) == 1 and len(words(first)) <= 4 and numbers_in(first.split()[0]):
            return alone[0], "bare answer"
        given = set(numbers_in(instruction))
        stated = _stated_result(first_paragraph(reply), given)
        if stated is not None:
            return stated, "stated result"
        sentence = next((s for s in lead(reply, 5, keep_marks=True) if numbers_in(s)), "")
        values = set(numbers_in(sentence))
        left = values if len(values) == 1 else values - given
        return (left.pop(), "only number") if len(left) == 1 else (None, f"{len(left)} candidates")


def _stated_result(paragraph: str, given: set[float]) -> float | None:
    """What the paragraph concludes, calculates or states, in this order of trust."""
    if concluded := numbers_in(conclusion(paragraph)):
        return concluded[-1]
    equations = [(set(numbers_in(left)), numbers_in(right)) for left, right in _EQUATION.findall(paragraph)]
    equations = [(left, right) for left, right in equations if right]
    if equations:
        own = [right for left, right in equations if left == given]
        return (own or [right for _, right in equations])[-1][0]
    stated = []
    for match in _RESULT.finditer(paragraph):
        token = _TOKEN.match(paragraph, match.end())
        values = numbers_in(token.group()) if token else []
        if token and values and not _OPERATOR.match(paragraph, token.end()):
            stated.append(values[0])
    return next((value for value in stated if value not in given), stated[-1] if stated else None)
