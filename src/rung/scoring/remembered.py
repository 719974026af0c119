"""A scorer that asks another one once for each answer to an item: training asks for accuracy and for the reward apart.

It is for scorers whose judgement depends on the item and the text alone. An abstention is not remembered: a verifier
that could not judge is asked again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from rung.records.contracts import Item, Score, Trace
from rung.scoring.mixing import Ranged
from rung.scoring.reward import Range

__all__ = ["Remembered"]


class Remembered:
    """`inner`, with the last `limit` judgements kept."""

    def __init__(self, inner: Ranged, limit: int = 4096) -> None:
        self._inner, self._limit = inner, limit
        self._known: OrderedDict[tuple[str, str], Score] = OrderedDict()

    @property
    def range(self) -> Range:
        """The inner one's."""
        return self._inner.range

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """One score per (item, trace) pair, in order; equal answers of one call are asked about once."""
        keys = [(item.id, trace.text) for item, trace in zip(items, traces, strict=True)]
        asked = {key: place for place, key in enumerate(keys) if key not in self._known}
        places = sorted(asked.values())
        fresh = self._inner.score([items[place] for place in places], [traces[place] for place in places])
        given = {keys[place]: score for place, score in zip(places, fresh, strict=True)}
        scores = [self._known[key] if key in self._known else given[key] for key in keys]
        self._known.update({key: score for key, score in given.items() if not score.abstained})
        while len(self._known) > self._limit:
            self._known.popitem(last=False)
        return scores
