"""Pairs that cannot teach what they say: empty, equal, repeated, contradicting each other, or going round in circles.

Preferences of one prompt are arrows from the better to the worse answer, texts being the same when they differ in
space alone. Two arrows against each other contradict; a longer way back to where it began (a above b, b above c, c
above a) is a cycle. Nobody can say which arrow of such a ring is the wrong one, so all of the ring go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rung.datagen.wording import fold
from rung.records.types import Drop, PreferencePair

__all__ = ["PROBLEMS", "CheckedPairs", "check_pairs"]

PROBLEMS = ("empty", "equal", "repeat", "contradicting", "cyclic")
_PART = "preference_checks"


@dataclass(frozen=True, slots=True)
class CheckedPairs:
    """Pairs that hold, in order; the others with the problem as reason and the pairs that it is with."""

    kept: tuple[PreferencePair, ...]
    dropped: tuple[Drop, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """Dropped pairs by problem, every problem named."""
        found = Counter(drop.reason for drop in self.dropped)
        return {problem: found[problem] for problem in PROBLEMS}


def check_pairs(pairs: Sequence[PreferencePair]) -> CheckedPairs:
    """Find all problems.

    A pair has the first that fits: "empty" (a side or the prompt is white space), "equal" (both sides the same),
    "repeat" (prompt and sides of an earlier pair), "contradicting", "cyclic".
    """
    reasons = _single(pairs)
    groups: dict[str, list[int]] = {}
    for number, pair in enumerate(pairs):
        if number not in reasons:
            groups.setdefault(fold(pair.instruction), []).append(number)
    partners: dict[int, list[str]] = {}
    for numbers in groups.values():
        for number, (reason, others) in _rings({n: _arrow(pairs[n]) for n in numbers}).items():
            reasons[number], partners[number] = reason, [pairs[other].id for other in others]
    dropped = [
        Drop(pairs[n].id, pairs[n].rejected, _PART, reasons[n], detail={"with": partners.get(n, [])})
        for n in sorted(reasons)
    ]
    return CheckedPairs(tuple(pair for n, pair in enumerate(pairs) if n not in reasons), tuple(dropped))


def _single(pairs: Sequence[PreferencePair]) -> dict[int, str]:
    """What is wrong with pairs on their own, or with one like an earlier one."""
    reasons: dict[int, str] = {}
    seen: set[tuple[str, str, str]] = set()
    for number, pair in enumerate(pairs):
        better, worse = _arrow(pair)
        key = (fold(pair.instruction), better, worse)
        if not better or not worse or not pair.instruction.strip():
            reasons[number] = "empty"
        elif better == worse:
            reasons[number] = "equal"
        elif key in seen:
            reasons[number] = "repeat"
        seen.add(key)
    return reasons


def _arrow(pair: PreferencePair) -> tuple[str, str]:
    """Better and worse text, space aside: case and marks may be what the preference is about."""
    return " ".join(pair.chosen.split()), " ".join(pair.rejected.split())


def _rings(arrows: Mapping[int, tuple[str, str]]) -> dict[int, tuple[str, list[int]]]:
    """Arrows that lie in a ring, with the reason and the others of their ring."""
    below: dict[str, set[str]] = {}
    for better, worse in arrows.values():
        below.setdefault(better, set()).add(worse)
    reached = {text: _reachable(text, below) for text in below}
    found: dict[int, tuple[str, list[int]]] = {}
    for number, (better, worse) in arrows.items():
        if better not in reached.get(worse, ()):
            continue
        around = {text for text in reached[better] if better in reached.get(text, ())}
        ring = [other for other, ends in arrows.items() if other != number and around.issuperset(ends)]
        against = [other for other in ring if arrows[other] == (worse, better)]
        found[number] = ("contradicting", against) if against else ("cyclic", ring)
    return found


def _reachable(start: str, below: Mapping[str, set[str]]) -> set[str]:
    """All texts below one, by any number of arrows."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for text in below.get(waiting.pop(), ()):
            if text not in seen:
                seen.add(text)
                waiting.append(text)
    return seen
