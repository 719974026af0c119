"""Contamination: which documents of a corpus hold a run of words of a benchmark's items.

A document that shares `run_of_words` words in a row with an item is contaminated (Brown et al. 2020, appendix C, take
13; prompts of code have fewer). An item with fewer words than that is looked for as a whole, from `shortest` words on;
what is shorter still cannot be found and is counted. Paraphrases and translations are not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rung.base.settings import Field, Settings
from rung.datagen.corpus_words import quick_words

__all__ = ["BenchmarkItem", "Hit", "Overlap", "OverlapSettings"]


class OverlapSettings(Settings):
    """What counts as contamination."""

    run_of_words: int = Field(10, ge=3, le=50, description="words in a row that a document and an item share")
    shortest: int = Field(6, ge=3, description="words that a shorter item must have to be looked for as a whole")


@dataclass(frozen=True, slots=True)
class BenchmarkItem:
    """A text that must not be trained on: a prompt, a solution, or both."""

    benchmark: str
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """Where a document meets a benchmark."""

    benchmark: str
    item: str
    words: str


class Overlap:
    """Knows the runs of words of all items. `num_too_short` items have none."""

    def __init__(self, items: Iterable[BenchmarkItem], settings: OverlapSettings) -> None:
        self._settings = settings
        self._runs: dict[tuple[bytes, ...], BenchmarkItem] = {}
        self.num_items, self.num_too_short = 0, 0
        for item in items:
            self._add(item)
        self._lengths = sorted({len(run) for run in self._runs})
        self._words = {word: i for i, word in enumerate(sorted({w for run in self._runs for w in run}), 1)}

    def _add(self, item: BenchmarkItem) -> None:
        words = quick_words(item.text)
        size = min(self._settings.run_of_words, len(words))
        self.num_items += 1
        if size < min(self._settings.shortest, self._settings.run_of_words):
            self.num_too_short += 1
            return
        for start in range(len(words) - size + 1):
            self._runs.setdefault(tuple(words[start : start + size]), item)

    def find(self, text: str) -> Hit | None:
        """The first run of a text that is an item's, None when there is none."""
        if not self._runs:
            return None
        words = quick_words(text)
        known = self._words.get
        places = np.fromiter((known(word, 0) for word in words), np.int64, len(words))
        # few documents hold so many of the items' words in a row: only there is anything compared
        ends = np.flatnonzero(np.diff(np.concatenate([[0], places > 0, [0]]).astype(np.int8)))
        for first, last in ends.reshape(-1, 2)[(ends[1::2] - ends[::2]) >= self._lengths[0]].tolist():
            if hit := self._in_run(words[first:last]):
                return hit
        return None

    def _in_run(self, words: Sequence[bytes]) -> Hit | None:
        for size in self._lengths:
            for start in range(len(words) - size + 1):
                run = tuple(words[start : start + size])
                if item := self._runs.get(run):
                    return Hit(item.benchmark, item.id, b" ".join(run).decode("utf-8", "replace"))
        return None
