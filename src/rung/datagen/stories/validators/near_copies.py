"""Copies of earlier stories, of stories that were shown, and near ones: by runs of words that both have.

The index is MinHash over runs of four words (Broder 1997); what it proposes is verified by the true overlap. It
remembers what it kept, so it is fed piece after piece, and can be told of stories that were kept before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from datasketch import MinHash, MinHashLSH

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding
from rung.datagen.stories.judging import Known, sift_stories
from rung.datagen.wording import jaccard, words
from rung.records.contracts import FilterResult
from rung.records.types import Story

__all__ = ["NearCopies"]

_NUM_PERMUTATIONS = 64


class NearCopies:
    """Drops "copy", "near_copy" (of a story kept earlier) and "copies_shot"; the first of equal ones stays."""

    class Settings(BaseSettings):
        """What counts as near."""

        similarity: float = Field(0.5, gt=0.2, le=1, description="overlap (Jaccard) of runs from which two are near")
        run: int = Field(4, ge=2, le=12, description="words in a run")

    EXAMPLES = (("The dog ran to the park and saw a red ball there.", ""),)

    def __init__(self, settings: Settings, known: Known) -> None:
        self.settings = settings
        self._runs: dict[str, frozenset[str]] = {}
        self._index = MinHashLSH(threshold=max(0.1, settings.similarity - 0.2), num_perm=_NUM_PERMUTATIONS)

    def remember(self, texts: Iterable[str]) -> None:
        """Treat these as kept already."""
        for text in texts:
            self._keep(" ".join(words(text)))

    def apply(self, stories: Sequence[Story]) -> FilterResult:
        """Keep first appearances, in order."""
        return sift_stories("near_copies", stories, self._find)

    def _find(self, story: Story) -> Finding | None:
        folded, span = " ".join(words(story.text)), (0, len(story.text))
        runs = self._cut(folded)
        if any(self._near(runs, turn.content) for turn in story.messages if turn.role == "assistant"):
            return Finding("copies_shot", span)
        if folded in self._runs:
            return Finding("copy", span)
        if any(jaccard(runs, self._runs[key]) >= self.settings.similarity for key in self._index.query(_sketch(runs))):
            return Finding("near_copy", span)
        self._keep(folded)
        return None

    def _near(self, runs: frozenset[str], shown: str) -> bool:
        return jaccard(runs, self._cut(" ".join(words(shown)))) >= self.settings.similarity

    def _keep(self, folded: str) -> None:
        if folded not in self._runs:
            self._runs[folded] = self._cut(folded)
            self._index.insert(folded, _sketch(self._runs[folded]))

    def _cut(self, folded: str) -> frozenset[str]:
        spoken, size = folded.split(), self.settings.run
        return frozenset(" ".join(spoken[n : n + size]) for n in range(max(1, len(spoken) - size + 1)))


def _sketch(runs: frozenset[str]) -> Any:
    sketch = MinHash(num_perm=_NUM_PERMUTATIONS, seed=1)
    sketch.update_batch([run.encode() for run in sorted(runs)])
    return sketch
