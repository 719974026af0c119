"""Demonstrations of a branch-and-rethink judge, to start from: a small model cannot follow the format by itself.

Written by program from flawed pairs, whose truth is known: turn one chooses the dimensions of the planted flaw and
names what to verify in each response, turn two says what verifying showed, and ranks. A suspicion does not tell which
response is flawed, so the ranking needs the second reading. Which response comes first is drawn, or both orders are
shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rung.base.seeds import stream
from rung.records.contracts import Item
from rung.records.types import record_id
from rung.scoring.branch_format import written
from rung.scoring.branch_wording import LAYOUTS, Layout
from rung.scoring.flawed_families import FlawedPair
from rung.scoring.judged_pairs import pair_item

__all__ = ["Demonstration", "demonstrations", "labelled_items"]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A pair to be judged and the judge's answers, one per turn."""

    item: Item
    answers: tuple[str, ...]


def labelled_items(pairs: Sequence[FlawedPair], seed: int) -> list[Item]:
    """The pairs as items of known label, in random order of their responses; the type is the family's name, and
    `reference["dimensions"]` are those of the planted flaw."""
    return [_item(pair, _good_first(pair, seed)) for pair in pairs]


def demonstrations(
    pairs: Sequence[FlawedPair], seed: int, layout: Layout = "two_turns", *, both_orders: bool = False
) -> list[Demonstration]:
    """One demonstration per pair, its labels in the same order as those of `labelled_items`; with `both_orders` each
    pair follows once more with its responses exchanged, so that no place is ever the better one. (After 64 with random
    labels alone, SmolLM2-135M followed the format in 91 % of its traces and chose what was shown first in all.)"""
    shown = []
    for pair in pairs:
        first = _good_first(pair, seed)
        shown += [_demonstration(pair, order, layout) for order in ((first, not first) if both_orders else (first,))]
    return shown


def _good_first(pair: FlawedPair, seed: int) -> bool:
    return stream(seed, "label order", pair.family, pair.key).random() < 0.5


def _item(pair: FlawedPair, good_first: bool) -> Item:
    sides = (pair.good, pair.bad) if good_first else (pair.bad, pair.good)
    name = record_id("judged", pair.family, pair.key)
    made = pair_item(name, pair.context, (sides[0].response, sides[1].response), 1 if good_first else 2)
    return Item(made.id, made.instruction, pair.family, {**made.reference, "dimensions": list(pair.dimensions)})


def _demonstration(pair: FlawedPair, good_first: bool, layout: Layout) -> Demonstration:
    first, second = (pair.good, pair.bad) if good_first else (pair.bad, pair.good)
    contents = {
        "Focus": ", ".join(pair.dimensions),
        "Issues1": first.suspicion,
        "Issues2": second.suspicion,
        "Hierarchy": pair.hierarchy,
        "Analysis1": first.finding,
        "Analysis2": second.finding,
        "Ranking": f"\\boxed{{{1 if good_first else 2}}}",
    }
    return Demonstration(_item(pair, good_first), tuple(written(contents, blocks) for blocks in LAYOUTS[layout]))
