"""How a text is cut into pieces before a byte-pair tokenizer merges within them, by name.

`text` is GPT-2's rule (Radford et al. 2019), `code` one for programs: a line's end and the indentation after it are one
piece, together with the signs that end the line (`):` and the like); a name takes the one sign before it (`_`, `.`,
`(`) along, and numbers come in threes, as in cl100k.

Each rule stands here twice: as the tokenizer's own expression over all of Unicode, and as Python's over ASCII, where
the two give the same pieces. `encoding` lives on the second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["RULES", "Rule", "RuleName"]

RuleName = Literal["text", "code"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One way of cutting: `pattern` is the tokenizer's, `ascii` is Python's for texts of ASCII alone."""

    pattern: str
    ascii: re.Pattern[str]


def _rule(pattern: str) -> Rule:
    """Both forms of a rule; within ASCII its classes of letters and digits are ranges."""
    narrow = pattern.replace("\\p{L}", "a-zA-Z").replace("\\p{N}", "0-9")
    return Rule(pattern, re.compile(narrow, re.ASCII))


RULES: dict[RuleName, Rule] = {
    "text": _rule(r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    "code": _rule(
        r"[\r\n]+[ \t]*|[^\r\n\p{L}\p{N}]?[\p{L}]+|[\p{N}]{1,3}"
        r"| ?[^\s\p{L}\p{N}]+(?:[\r\n]+[ \t]*)?|[ \t]+(?!\S)|[^\S\r\n]+"
    ),
}
