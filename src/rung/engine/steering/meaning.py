"""How many different things do several answers say? Answers in clusters of one meaning, and the entropy over them.

After semantic entropy (Kuhn, Gal and Farquhar 2023, arXiv 2302.09664): the spread of meanings, not of words, says that
a model could go on in different ways. Their clusters come from a model of entailment. Here two answers are alike by the
content words they share, with numbers and negation allowed to tell them apart: nothing to load, but rewordings without
a word in common count as two meanings, and opposites said in the same words as one. Another `Likeness` may be put in.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence

from rung.base.errors import DataError

__all__ = ["Likeness", "ask_threshold", "clusters", "meaning_entropy", "overlap"]

Likeness = Callable[[str, str], float]
"""How far two answers say the same, from 0 (not at all) to 1; the same both ways."""

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_EMPTY = frozenset(
    "a an the is are was were be been being am it its it's he she they this that these those there here i you we me us "
    "him her them my your our their his of in on at to for from by with as and or but so if then than do does did has "
    "have had can could will would shall should may might must about into also very just one some any what which who "
    "how when where why answer sure yes well usually typically generally".split()
)
_DENIALS = frozenset("no not never none nothing cannot can't isn't aren't don't doesn't didn't won't wasn't".split())
_SUFFIXES = ("ing", "ies", "ed", "es", "ly", "s")
_LEAST_STEM = 4


def overlap(first: str, second: str) -> float:
    """Shared content words: the mean of their share of both texts (Dice) and of the shorter one, so that "Paris" is
    near "The capital is Paris". 0.0 where one denies and the other does not, or where their numbers differ."""
    one, other = _words(first), _words(second)
    if not one or not other:
        return float(one == other)
    numbers = [{word for word in words if word[0].isdigit()} for words in (one, other)]
    if bool(one & _DENIALS) != bool(other & _DENIALS) or (all(numbers) and not numbers[0] & numbers[1]):
        return 0.0
    shared = len(one & other)
    return 0.5 * (2 * shared / (len(one) + len(other)) + shared / min(len(one), len(other)))


def _words(text: str) -> frozenset[str]:
    """Content words, cut to rough stems; all words where no other is left."""
    words = [word.replace("\u2019", "'") for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold())]
    return frozenset(_stem(word) for word in words if word not in _EMPTY) or frozenset(words)


def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _LEAST_STEM:
            return word[: -len(suffix)]
    return word


def clusters(texts: Sequence[str], likeness: Likeness = overlap, limit: float = 0.5) -> tuple[tuple[int, ...], ...]:
    """Places of texts that say the same, the largest cluster first.

    The two clusters most alike on average are joined while that is at least `limit`; among equals the first, so the
    result does not depend on chance.
    """
    alike = {(i, j): likeness(texts[i], texts[j]) for i in range(len(texts)) for j in range(i + 1, len(texts))}
    groups: list[tuple[int, ...]] = [(place,) for place in range(len(texts))]
    while len(groups) > 1:
        pairs = [(one, other) for place, one in enumerate(groups) for other in groups[place + 1 :]]
        one, other = max(pairs, key=lambda pair: _mean_likeness(alike, *pair))
        if _mean_likeness(alike, one, other) < limit:
            break
        groups[groups.index(one)] = tuple(sorted(one + other))
        groups.remove(other)
    return tuple(sorted(groups, key=lambda group: (-len(group), group)))


def _mean_likeness(alike: dict[tuple[int, int], float], one: tuple[int, ...], other: tuple[int, ...]) -> float:
    return sum(alike[min(i, j), max(i, j)] for i in one for j in other) / (len(one) * len(other))


def meaning_entropy(groups: Sequence[Sequence[int]]) -> float:
    """Entropy in nats over clusters by their sizes: 0.0 for one meaning, log m where m answers all differ."""
    total = sum(map(len, groups))
    return -sum(len(group) / total * math.log(len(group) / total) for group in groups) if len(groups) > 1 else 0.0


def ask_threshold(clear: Sequence[float], false_asks: float = 0.05) -> float:
    """The level above which to ask, from the spreads at prompts that need no question.

    The rank of split conformal prediction (Vovk, Gammerman and Shafer 2005): a further clear prompt from the same
    source exceeds it with a chance of at most `false_asks`, however few there were.

    Raises:
        DataError: too few for that rate (19 for 5 %).
    """
    rank = math.ceil((len(clear) + 1) * (1 - false_asks))
    if rank > len(clear):
        raise DataError(
            f"{len(clear)} clear prompts cannot bound false questions at {false_asks:g}",
            place="ask_threshold",
            hint=f"at least {math.ceil(1 / false_asks) - 1}, or a higher rate",
        )
    return sorted(clear)[rank - 1]
