"""Repeats over a whole run: exact after folding, and near ones by MinHash, verified by the true overlap.

The filter remembers what it kept, so it can be fed batch after batch, and filled with earlier records on a resume.
Source of the method: Broder, On the resemblance and containment of documents (1997). It does not see paraphrases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from datasketch import MinHash, MinHashLSH

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import subject_of
from rung.datagen.wording import fold, jaccard
from rung.records.contracts import FilterResult
from rung.records.types import Drop

__all__ = ["NearDuplicates"]

_NUM_PERMUTATIONS = 64


class NearDuplicates:
    """Keeps the first of each group of equal or nearly equal instructions; drops name the record they repeat."""

    class Settings(BaseSettings):
        """What counts as nearly equal."""

        similarity: float = Field(
            default=0.75,
            gt=0.3,
            le=1.0,
            description="overlap (Jaccard) of shingles from which two are near repeats",
        )
        shingle: int = Field(default=4, ge=2, le=12, description="characters in a shingle")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._exact: dict[str, str] = {}
        self._shingles: dict[str, frozenset[str]] = {}
        # The index only proposes; it must propose more than the threshold asks for, since it misses some.
        self._index = MinHashLSH(threshold=max(0.2, settings.similarity - 0.2), num_perm=_NUM_PERMUTATIONS)

    def remember(self, records: Iterable[Any]) -> None:
        """Treat these as kept already."""
        for record in records:
            self._keep(record.id, fold(subject_of(record).instruction))

    def _keep(self, record_id: str, folded: str) -> None:
        if folded in self._exact:
            return
        self._exact[folded] = record_id
        self._shingles[folded] = self._cut(folded)
        self._index.insert(folded, self._sketch(self._shingles[folded]))

    def _cut(self, folded: str) -> frozenset[str]:
        size = self.settings.shingle
        return frozenset(folded[i : i + size] for i in range(max(1, len(folded) - size + 1)))

    @staticmethod
    def _sketch(shingles: frozenset[str]) -> Any:
        sketch = MinHash(num_perm=_NUM_PERMUTATIONS, seed=1)
        sketch.update_batch([shingle.encode() for shingle in sorted(shingles)])
        return sketch

    def _nearest(self, folded: str) -> tuple[str, float]:
        shingles = self._cut(folded)
        found = [(jaccard(shingles, self._shingles[key]), key) for key in self._index.query(self._sketch(shingles))]
        overlap, key = max(found, default=(0.0, ""))
        return (self._exact[key], overlap) if overlap >= self.settings.similarity else ("", overlap)

    def apply(self, records: Sequence[Any]) -> FilterResult:
        """Keep first appearances, in order; reasons are "exact_repeat" and "near_repeat"."""
        kept, dropped = [], []
        for record in records:
            text = subject_of(record).instruction
            folded = fold(text)
            if folded in self._exact:
                reason, of, overlap = "exact_repeat", self._exact[folded], 1.0
            else:
                of, overlap = self._nearest(folded)
                reason = "near_repeat" if of else ""
            if reason:
                detail = {"repeats": of, "overlap": round(overlap, 4)}
                dropped.append(Drop(record.id, text, "near_duplicates", reason, (0, len(text)), detail))
            else:
                self._keep(record.id, folded)
                kept.append(record)
        return FilterResult(tuple(kept), tuple(dropped))
