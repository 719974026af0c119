"""Pairs as a pairwise judge sees them: in which order, and what its readings in both orders come to.

A judge that prefers a position rather than a response looks right half of the time. So labels are put in random order
for training, and for judging every pair is read in both orders: what the two readings say of the same response is its
preference, and how often they agree is the judge's consistency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rung.base.errors import DataError
from rung.base.proportions import wilson_interval
from rung.base.seeds import stream
from rung.records.contracts import Item
from rung.records.types import PreferencePair
from rung.scoring.branch_format import Reading
from rung.scoring.branch_wording import responses_of

__all__ = ["OrderFigures", "Verdict", "exchanged", "in_random_order", "order_figures", "pair_item"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Two readings of one pair. Choices are 1 or 2 as the item numbers its responses, whatever the order in which they
    were shown; None where a reading was malformed or not made."""

    item_id: str
    as_given: int | None
    exchanged: int | None
    readings: tuple[Reading, ...] = ()
    num_tokens: int = 0

    @property
    def preference(self) -> float | None:
        """Share of the valid readings that choose response 1; None without any: the judge abstains."""
        valid = [choice for choice in (self.as_given, self.exchanged) if choice is not None]
        return sum(choice == 1 for choice in valid) / len(valid) if valid else None

    @property
    def consistent(self) -> bool | None:
        """Whether both orders choose the same response; None unless both are valid."""
        return None if None in (self.as_given, self.exchanged) else self.as_given == self.exchanged


@dataclass(frozen=True, slots=True)
class OrderFigures:
    """A judge over pairs read in both orders. `consistency` is over pairs with two valid readings, `first` the share of
    valid readings that choose what was shown first, each with its 95 % interval (Wilson); None without any."""

    num_pairs: int
    num_readings: int
    num_malformed: int
    consistency: float | None
    consistency_interval: tuple[float, float]
    first: float | None
    first_interval: tuple[float, float]


def pair_item(name: str, context: str, responses: tuple[str, str], better: int | None = None) -> Item:
    """A pair to be judged; `better` is 1 or 2 where it is known.

    Raises:
        DataError: another label.
    """
    if better not in (None, 1, 2):
        raise DataError(f"the better response is {better}, not 1 or 2", place=f"pair '{name}'")
    return Item(name, context, "pair", {"responses": list(responses), "better": better})


def in_random_order(pairs: Sequence[PreferencePair], seed: int) -> list[Item]:
    """The pairs as items; which response comes first depends on seed and pair alone, and is even."""
    items = []
    for pair in pairs:
        chosen_first = stream(seed, "label order", pair.id).random() < 0.5
        texts = (pair.chosen, pair.rejected) if chosen_first else (pair.rejected, pair.chosen)
        items.append(pair_item(pair.id, pair.instruction, texts, 1 if chosen_first else 2))
    return items


def exchanged(item: Item) -> Item:
    """The same pair with its responses in the other order.

    Raises:
        DataError: the item is no pair.
    """
    first, second = responses_of(item)
    better = item.reference.get("better")
    return replace(
        item, reference={**item.reference, "responses": [second, first], "better": better and 3 - better}
    )  # fmt: skip


def order_figures(verdicts: Sequence[Verdict]) -> OrderFigures:
    """What the readings of both orders come to."""
    agreed = [verdict.consistent for verdict in verdicts if verdict.consistent is not None]
    shown_first = [c == 1 for v in verdicts if (c := v.as_given) is not None]
    shown_first += [c == 2 for v in verdicts if (c := v.exchanged) is not None]
    num_readings = sum(len(verdict.readings) for verdict in verdicts)
    return OrderFigures(
        num_pairs=len(verdicts),
        num_readings=num_readings,
        num_malformed=num_readings - len(shown_first),
        consistency=_share(agreed),
        consistency_interval=wilson_interval(sum(agreed), len(agreed)) if agreed else (0.0, 1.0),
        first=_share(shown_first),
        first_interval=wilson_interval(sum(shown_first), len(shown_first)) if shown_first else (0.0, 1.0),
    )


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
