"""How often in an epoch the documents of each source are trained on.

A document is shown as many whole times as its source's weight says, and for the rest by a chance that is fixed for it:
with a weight of 0.25 the same quarter is shown in every run, and it is part of the half that 0.5 shows. All documents
are shown once before any is shown again, so that copies do not lie side by side in a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rung.base.errors import SettingsError
from rung.base.seeds import derive
from rung.base.settings import nearest

__all__ = ["SourceCount", "Weights", "is_of", "showings"]

_LISTED = 20


@dataclass
class SourceCount:
    """Documents of one source that are not held out, each once, and as an epoch shows them; and those held out."""

    weight: float
    num_documents: int = 0
    num_tokens: int = 0
    num_shown_documents: int = 0
    num_shown_tokens: int = 0
    num_held_out_documents: int = 0

    def add(self, num_tokens: int, *, is_first: bool, held_out: bool, shown: bool) -> None:
        """One document, the first time that it is looked at or a later one."""
        if held_out:
            self.num_held_out_documents += is_first
            return
        self.num_documents += is_first
        self.num_tokens += is_first * num_tokens
        self.num_shown_documents += shown
        self.num_shown_tokens += shown * num_tokens


def is_of(source: str, name: str) -> bool:
    """Whether a document of `source` (such as "files/a.txt") belongs to what `name` names ("files", "files/a.txt")."""
    return source == name or source.startswith(f"{name}/")


def showings(document_id: str, weight: float) -> int:
    """How often a document is shown in an epoch; never fewer times under a larger weight."""
    whole = math.floor(weight)
    return whole + (derive(0, "weighted document", document_id) < (weight - whole) * 2**63)


class Weights:
    """Weights by name of a source: where several names fit the longest decides, where none does the weight is 1."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(sorted(weights.items(), key=lambda item: -len(item[0])))

    @property
    def num_rounds(self) -> int:
        """How often a document is shown at most."""
        return max([1, *(math.ceil(weight) for weight in self._weights.values())])

    def name_of(self, source: str) -> str:
        """What a document's source is counted under: the name that decides, else its first part."""
        parts = source.split("/")
        first = "/".join(parts[: 2 if parts[0] == "stage" else 1])
        return next((name for name in self._weights if is_of(source, name)), first)

    def of(self, source: str) -> float:
        """The weight of a document's source."""
        return self._weights.get(self.name_of(source), 1.0)

    def check(self, sources: Iterable[str], place: str) -> None:
        """Refuse a name that no source has.

        Raises:
            SettingsError: with the sources that there are.
        """
        there = sorted(set(sources))
        for name in self._weights:
            if not any(is_of(source, name) for source in there):
                first = Weights({}).name_of
                near = [source for source in there if is_of(source, first(name))]
                known = sorted({*map(first, there), *near[:_LISTED]})
                raise SettingsError(f"the corpus has no source '{name}'", place=place, hint=nearest(name, known))
