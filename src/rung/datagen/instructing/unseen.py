"""Ways of asking that are never trained on: what a network does with them is more than it was taught.

Some texts are asked in these ways and in no other, all others never in them, so neither a way of asking nor a text is
on both sides. Which texts they are follows from the texts alone, by the same rule that keeps documents from
pretraining (`tokens.held_out`): where that share is at least as large, pretraining has not seen them either.
Kinds and styles are held out in texts of their own: a new kind is asked in styles that are trained, and the other way
round, so that what is hard about it is one thing. Conversations of three turns are made of trained ways alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rung.base.errors import SettingsError
from rung.base.seeds import derive
from rung.base.settings import Field, Settings, nearest
from rung.datagen.instructing.pairing import Bench, Paired, pair_up
from rung.records.token_shards import is_held_out
from rung.records.types import Document, SftRecord

__all__ = ["Unseen", "UnseenSettings", "check_unseen", "is_unseen", "pair_sides", "unseen_figures"]


class UnseenSettings(Settings):
    """What is only measured on; at least one kind or style."""

    kinds: tuple[str, ...] = Field((), description="kinds that no trained instruction asks for")
    styles: tuple[str, ...] = Field((), description="styles that no trained instruction has")
    documents: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of the texts that are asked in these ways and never trained on; up to the share that "
        "`tokens` holds out, pretraining has not seen them either",
    )
    min_records: int = Field(20, ge=1, description="fewer records to measure on decide nothing")


@dataclass(frozen=True, slots=True)
class Unseen:
    """What is measured on, and whether it is apart: `num_trained` trained records ask in a way that is held out,
    `num_known` measured ones in none, and `num_texts` measured ones have a text that is trained on."""

    count: int
    num_trained: int
    num_known: int
    num_texts: int


def is_unseen(record: SftRecord, own: UnseenSettings) -> bool:
    """Whether the record asks for one of the kinds or has one of the styles."""
    made = _made(record)
    return str(made.get("style", "")) in own.styles or any(kind in own.kinds for kind in made.get("kinds", ()))


def pair_sides(documents: Sequence[Document], bench: Bench, own: UnseenSettings, seed: int) -> tuple[Paired, Paired]:
    """(trained, measured): the pairs of these documents, each side with its drops."""
    seen, *sides = _benches(bench, own)
    measured = [document for document in documents if is_held_out(document.id, own.documents)]
    kept = Paired()
    for number, side in enumerate(sides):
        mine = [one for one in measured if derive(0, "way of asking", one.id) % len(sides) == number]
        made = pair_up(mine, side, derive(seed, "unseen", number))
        kept.pairs += made.pairs
        kept.dropped += made.dropped
    names = {document.id for document in measured}
    return pair_up([document for document in documents if document.id not in names], seen, seed), kept


def check_unseen(own: UnseenSettings, bench: Bench) -> None:
    """Refuse what leaves nothing to train on or nothing to measure on.

    Raises:
        SettingsError: naming the setting.
    """
    for key, asked, there in (("kinds", own.kinds, bench.kinds), ("styles", own.styles, bench.styles.styles)):
        for name in asked:
            if name not in there:
                raise SettingsError(
                    f"'{name}' is not among the {key} that are used",
                    place=f"unseen.{key}",
                    hint=nearest(name, list(there)),
                )
    if not own.kinds and not own.styles:
        raise SettingsError("nothing is held out", place="unseen", hint="name kinds or styles")
    if set(own.styles) == set(bench.styles.styles):
        raise SettingsError("no style is left to train on", place="unseen.styles")
    if not any(kind.identifies for name, kind in bench.kinds.items() if name not in own.kinds):
        raise SettingsError("none of the kinds that are left tells one text from another", place="unseen.kinds")
    blunt = [name for name in own.kinds if not bench.kinds[name].identifies]
    if blunt and bench.settings.max_asks < 2:
        raise SettingsError(
            f"'{blunt[0]}' is never asked alone, and an instruction has one part",
            place="unseen.kinds",
            hint="raise pairs.max_asks",
        )


def unseen_figures(trained: Sequence[SftRecord], measured: Sequence[SftRecord], own: UnseenSettings) -> Unseen:
    """Recomputed from the records; the trained ones may be of any stage."""
    texts = {_made(record).get("document") for record in trained} | {record.response for record in trained}
    return Unseen(
        count=len(measured),
        num_trained=sum(is_unseen(record, own) for record in trained),
        num_known=sum(not is_unseen(record, own) for record in measured),
        num_texts=sum(bool({_made(record).get("document"), record.response} & texts) for record in measured),
    )


def _benches(bench: Bench, own: UnseenSettings) -> list[Bench]:
    """What is trained is made with the first; the others make what is measured, new kinds before new styles."""
    styles = bench.styles.only([name for name in bench.styles.styles if name not in own.styles], "unseen.styles")
    seen = replace(bench, kinds={n: k for n, k in bench.kinds.items() if n not in own.kinds}, styles=styles)
    single = bench.settings.model_copy(update={"multi_turn": 0.0})
    made = [seen]
    if own.kinds:
        made.append(replace(bench, settings=single, styles=styles, must=frozenset(own.kinds)))
    if own.styles:
        made.append(replace(seen, settings=single, styles=bench.styles.only(own.styles, "unseen.styles")))
    return made


def _made(record: SftRecord) -> Mapping[str, Any]:
    found = record.metadata.get("instruction", {})
    return found if isinstance(found, Mapping) else {}
