"""Two measures of empty words: how much of a response copies its instruction, and how much repeats itself."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

__all__ = ["copied_share", "repeated_share"]

_WORD = re.compile(r"\w+")
_LONGEST_READ = 400


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())[:_LONGEST_READ]


def copied_share(response: str, instruction: str) -> float:
    """The longest run of words that both have, as a share of the longer of the two; 1.0 is a verbatim copy.

    Measured against the longer one, so that an answer which rightly takes words from its instruction ("Repeat after
    me: ...") or restates it before answering is hardly touched.
    """
    ours, theirs = _words(response), _words(instruction)
    if not ours or not theirs:
        return 0.0
    run = SequenceMatcher(None, ours, theirs, autojunk=False).find_longest_match().size
    return run / max(len(ours), len(theirs))


def repeated_share(response: str, size: int = 3) -> float:
    """The share of the response's word n-grams that came before; 0.0 for a response too short to have two."""
    words = _words(response)
    grams = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
