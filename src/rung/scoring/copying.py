"""Two measures of empty words: how much of a response copies its instruction, and how much repeats itself."""

from __future__ import annotations

import re

__all__ = ["copied_share", "repeated_share"]

_WORD = re.compile(r"\w+")
_LONGEST_READ = 400


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())[:_LONGEST_READ]


def copied_share(response: str, instruction: str) -> float:
    """The share of the instruction that stands in the response from the instruction's first word on; 1.0 is a copy.

    An answer that restates a question leaves its question word out ("Diamond is the hardest mineral"), and one that
    was told to repeat something leaves the telling out: neither counts. A copy that makes up less than half of the
    response counts in proportion, since an answer may follow it.
    """
    ours, theirs = _words(response), _words(instruction)
    if not ours or not theirs:
        return 0.0
    run = max(_common_start(ours[start:], theirs) for start in range(len(ours)))
    return run / len(theirs) * min(1.0, 2 * run / len(ours))


def repeated_share(response: str, size: int = 3) -> float:
    """The share of the response's word n-grams that came before; 0.0 for a response too short to have two."""
    words = _words(response)
    grams = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _common_start(first: list[str], second: list[str]) -> int:
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))
