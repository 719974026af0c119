"""How well the texts give what is asked, measured: on the pairs as they are, and on pairs whose texts were swapped.

The second is what the first is worth: a check that finds nothing wrong with another text finds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.datagen.instructing.asking import Ask, Kind
from rung.datagen.instructing.quality import misaligned
from rung.datagen.stories.figures import Share
from rung.records.types import SftRecord

__all__ = ["Alignment", "alignment", "asks_of"]


@dataclass(frozen=True, slots=True)
class Alignment:
    """`aligned`: pairs whose text gives everything that is asked. `caught`: pairs that are found out when they get the
    text of another document. `by_kind` is `caught` for the asks of each kind alone."""

    aligned: Share
    caught: Share
    by_kind: dict[str, Share]


def asks_of(record: SftRecord) -> tuple[Ask, ...]:
    """What the record asks, as its metadata has it."""
    said: Mapping[str, Any] = record.metadata.get("instruction", {})
    return tuple(Ask(str(one["kind"]), {}, tuple(one["wanted"])) for one in said.get("asks", ()))


def alignment(records: Sequence[SftRecord], kinds: Mapping[str, Kind]) -> Alignment:
    """Over all records that ask anything of their text; each is swapped with the next one of another document."""
    asking = [(record, asks) for record in records if (asks := asks_of(record))]
    good = sum(not misaligned(asks, record.response, kinds) for record, asks in asking)
    swapped = [(asks, other) for place, (record, asks) in enumerate(asking) if (other := _other(asking, place))]
    failed = [misaligned(asks, other, kinds) for asks, other in swapped]
    by_kind = {
        name: Share.of(
            sum(name in found for found in failed), sum(name in [ask.kind for ask in asks] for asks, _ in swapped)
        )
        for name in kinds
    }
    return Alignment(Share.of(good, len(asking)), Share.of(sum(map(bool, failed)), len(swapped)), by_kind)


def _other(asking: Sequence[tuple[SftRecord, tuple[Ask, ...]]], place: int) -> str:
    """The response of the next record that has another document; empty where all have the same."""
    own = asking[place][0].metadata["instruction"]["document"]
    order = [*asking[place + 1 :], *asking[:place]]
    return next((record.response for record, _ in order if record.metadata["instruction"]["document"] != own), "")
