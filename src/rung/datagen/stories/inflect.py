"""English inflections by rule, with a table of irregular forms: whether a word occurs in a text in any of its forms.

The rules over-generate on purpose ("runned" counts as a form of "run"): a child's story is looked for the word, not for
its grammar. A word that is only part of another one ("cat" in "catch") does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from rung.base.errors import DataError
from rung.datagen.wording import words

__all__ = ["Irregular", "forms", "occurring", "read_irregular"]

Irregular = Mapping[str, tuple[str, ...]]
_VOWELS = frozenset("aeiou")
_ENDINGS = ("ing", "ed", "er", "est", "en", "y")


@dataclass(frozen=True, slots=True)
class _Rule:
    """A base to which endings are put."""

    base: str
    endings: tuple[str, ...]


def read_irregular(values: Mapping[str, str], place: str) -> dict[str, tuple[str, ...]]:
    """`kind: "word:form,form ..."` as word -> forms, over all kinds.

    Raises:
        DataError: an entry without a colon.
    """
    found: dict[str, tuple[str, ...]] = {}
    for entry in (entry for text in values.values() for entry in text.split()):
        word, colon, said = entry.partition(":")
        if not colon or not said:
            raise DataError(f"'{entry}' is not word:form,form", place=place)
        found[word] = (*found.get(word, ()), *said.split(","))
    return found


def _rules(word: str) -> list[_Rule]:
    sibilant = word.endswith(("s", "x", "z", "ch", "sh", "o"))
    rules = [_Rule(word, ("es", "s", "ly", "ness", "'s") if sibilant else ("s", "ly", "ness"))]
    if word.endswith("e"):
        return [*rules, _Rule(word, ("d", "r", "st")), _Rule(word[:-1], ("ing", "y", "ily"))]
    if word.endswith("y") and word[-2:-1] not in _VOWELS:
        return [*rules, _Rule(word[:-1], ("ies", "ied", "ier", "iest", "ily", "iness")), _Rule(word, ("ing",))]
    rules.append(_Rule(word, _ENDINGS))
    if len(word) > 2 and word[-1] not in "aeiouwxy" and word[-2] in _VOWELS and word[-3] not in _VOWELS:
        rules.append(_Rule(word + word[-1], _ENDINGS))
    return rules


@lru_cache(maxsize=8192)
def _regular(word: str) -> frozenset[str]:
    return frozenset({word, *(rule.base + ending for rule in _rules(word) for ending in rule.endings)})


def forms(word: str, irregular: Irregular) -> frozenset[str]:
    """The word and everything that counts as one of its forms, in lower case."""
    lower = word.lower()
    return _regular(lower) | frozenset(irregular.get(lower, ()))


def occurring(wanted: Iterable[str], text: str, irregular: Irregular) -> frozenset[str]:
    """Those of `wanted` that occur in the text, in whatever form."""
    there = frozenset(words(text))
    return frozenset(word for word in wanted if not there.isdisjoint(forms(word, irregular)))
