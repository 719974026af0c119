"""What is wrong with an instruction, or with a pair of instruction and text, before anybody is trained on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rung.datagen.findings import Subject
from rung.datagen.heuristics import delimiter_leak, unfit
from rung.datagen.instructing.asking import Ask, Kind
from rung.datagen.stories.features import Features
from rung.datagen.wording import fold, words

__all__ = ["instruction_fault", "misaligned", "pair_fault"]

_PLACEHOLDER = re.compile(r"\{\w*\}|\[(?:insert|your)\b[^\]]*\]|\bNone\b")
_UNANSWERABLE = frozenset({"blank", "outside", "missing_input", "unfinished", "too_short"})
_MOST_WORDS = 150


def instruction_fault(text: str, asks: Sequence[Ask], features: Features) -> str:
    """ "empty", "placeholder", "contradiction" (features that go badly together, a kind that is asked twice),
    "unanswerable" (it needs something that is not there), "too_long"; or ""."""
    if not fold(text):
        return "empty"
    if _PLACEHOLDER.search(text):
        return "placeholder"
    names = [ask.kind for ask in asks]
    wanted = [name for ask in asks if ask.kind == "features" for name in ask.wanted]
    if len(set(names)) < len(names) or features.conflict([name for name in wanted if name in features]):
        return "contradiction"
    found = unfit(Subject(" ".join(text.split())), max_words=_MOST_WORDS)
    if found is not None and found.rule in _UNANSWERABLE:
        return "unanswerable"
    return "too_long" if len(words(text)) > _MOST_WORDS else ""


def pair_fault(instruction: str, response: str, limits: tuple[int, int]) -> str:
    """ "short_response" and "long_response" (by `limits`, in words), "delimiter", "says_the_answer" (the instruction
    holds most of the response); or ""."""
    num_words = len(words(response))
    if num_words < limits[0]:
        return "short_response"
    if num_words > limits[1]:
        return "long_response"
    if delimiter_leak(response) or delimiter_leak(instruction):
        return "delimiter"
    asked, said = words(instruction), words(response)
    runs = {tuple(asked[n : n + 4]) for n in range(len(asked) - 3)}
    covered = sum(tuple(said[n : n + 4]) in runs for n in range(len(said) - 3))
    return "says_the_answer" if len(said) > 3 and covered > 0.6 * (len(said) - 3) else ""


def misaligned(asks: Sequence[Ask], text: str, kinds: Mapping[str, Kind]) -> list[str]:
    """Kinds of the asks that the text does not give."""
    return [ask.kind for ask in asks if not kinds[ask.kind].holds(ask, text)]
