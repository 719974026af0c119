"""Whatever overlaps with held-out texts may not be trained on: equal, sharing a run of words, or nearly so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding, Subject, sift
from rung.datagen.wording import jaccard, words
from rung.records.contracts import FilterResult

__all__ = ["HeldOut"]


class HeldOut:
    """Drops records whose instruction or response overlaps with a held-out text.

    Args:
        held_out: the held-out instructions (and any other text to keep clear of).
    """

    class Settings(BaseSettings):
        """What counts as overlap."""

        run_of_words: int = Field(default=8, ge=3, description="a shared run of this many words is an overlap")
        similarity: float = Field(
            default=0.8,
            gt=0,
            le=1,
            description="overlap of two instructions' words from which they are the same",
        )

    def __init__(self, settings: Settings, *, held_out: Iterable[str]) -> None:
        self.settings = settings
        self._texts: set[str] = set()
        self._runs: set[tuple[str, ...]] = set()
        self._bags: list[frozenset[str]] = []
        self._by_word: dict[str, set[int]] = defaultdict(set)
        for text in held_out:
            self._add(words(text))

    def _add(self, spoken: list[str]) -> None:
        if not spoken or " ".join(spoken) in self._texts:
            return
        self._texts.add(" ".join(spoken))
        self._runs.update(self._cut(spoken))
        self._bags.append(frozenset(spoken))
        for word in self._bags[-1]:
            self._by_word[word].add(len(self._bags) - 1)

    def _cut(self, spoken: Sequence[str]) -> Iterable[tuple[str, ...]]:
        size = self.settings.run_of_words
        return (tuple(spoken[i : i + size]) for i in range(len(spoken) - size + 1))

    def _overlap(self, text: str, whole: bool) -> str:
        spoken = words(text)
        # A short answer may well be a held-out instruction's words; only instructions are compared as a whole.
        if whole and " ".join(spoken) in self._texts:
            return "equals_held_out"
        if any(run in self._runs for run in self._cut(spoken)):
            return "shares_words_with_held_out"
        if not whole:
            return ""
        bag = frozenset(spoken)
        near = {number for word in bag for number in self._by_word.get(word, ())}
        alike = any(jaccard(bag, self._bags[number]) >= self.settings.similarity for number in near)
        return "nearly_held_out" if alike else ""

    def _find(self, subject: Subject) -> Finding | None:
        whole = (0, len(subject.text))
        if rule := self._overlap(subject.instruction, whole=True):
            return Finding(rule, whole)
        rule = self._overlap(subject.response or "", whole=False)
        return Finding(rule, whole) if rule else None

    def apply(self, records: Sequence[Any]) -> FilterResult:
        """Keep the records without overlap, in order."""
        return sift("held_out", records, self._find)
