"""What the answers say: pass rates, paired tests, types and side-by-side samples, recomputed from the records.

A condition that abstained on an item counts as not passed there; abstentions and answers cut by the token limit are
counted beside the rate, so both conventions can be read off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rung.evaluate.statistics import (
    Lift,
    McNemar,
    Proportion,
    benjamini_hochberg,
    cohens_h,
    mcnemar_of,
    paired_bootstrap,
    wilson,
)
from rung.records.types import Answer, TestItem

__all__ = [
    "REFERENCE",
    "Condition",
    "Pair",
    "Reply",
    "Results",
    "Sample",
    "TypeRow",
    "known_order",
    "measure",
    "samples",
]

REFERENCE = "reference"
_ORDER = {REFERENCE: 0, "raw": 1, "framed": 2, "tuned": 4}
_OTHERS = 3
_CAPTIONS = {
    REFERENCE: "what is possible: every item's own reference answer",
    "raw": "base model, bare instruction",
    "framed": "base model, in the frame",
    "tuned": "tuned model, in the frame",
}
_MARKS = {"tuned": 0, "framed": 1, "raw": 2}
_OUTCOMES = ("lost", "neither", "gained", "both")
_SMALLEST_TYPE = 10


@dataclass(frozen=True, slots=True)
class Condition:
    """One way of asking: its answers in numbers."""

    name: str
    caption: str
    mark: int
    passed: Proportion
    num_abstained: int
    num_limit_hits: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two conditions on the items that both answered."""

    first: str
    second: str
    lift: Lift
    test: McNemar
    effect: float


@dataclass(frozen=True, slots=True)
class TypeRow:
    """One instruction type: pass rates in the order of the conditions, and the adjusted p of last against first."""

    name: str
    rates: tuple[Proportion, ...]
    adjusted_p: float | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What one condition said to an item."""

    condition: str
    mark: int
    text: str
    passed: bool
    abstained: bool
    finish_reason: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One item with every condition's reply. `outcome` is gained, lost, both or neither: last against the others."""

    item_id: str
    type: str
    instruction: str
    outcome: str
    replies: tuple[Reply, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """Everything measured on held-out items; `conditions` go from the plainest to the tuned one."""

    conditions: tuple[Condition, ...]
    pairs: tuple[Pair, ...]
    types: tuple[TypeRow, ...]
    num_items: int
    num_families: int


def known_order(names: Sequence[str]) -> list[str]:
    """The reference answers, then conditions from the plainest to the tuned one; others, as they came, before that."""
    return sorted(names, key=lambda name: _ORDER.get(name.split(":")[0], _OTHERS))


def measure(answers: Sequence[Answer], items: Mapping[str, TestItem] | None = None) -> Results | None:
    """Rates, paired tests and types; None when there are no answers.

    Args:
        answers: of any number of conditions; a condition's later answer to an item replaces an earlier one.
        items: held-out items by id; their families are what the bootstrap resamples.
    """
    table = _by_condition(answers)
    if not table:
        return None
    names = known_order(list(table))
    known = items or {}
    conditions = tuple(_condition(name, table[name]) for name in names)
    pairs = tuple(p for a, b in combinations(names, 2) if (p := _pair(a, b, table, known)) is not None)
    every = {item_id for answered in table.values() for item_id in answered}
    return Results(
        conditions=conditions,
        pairs=pairs,
        types=_types(names, table),
        num_items=len(every),
        num_families=len({_family(i, known) for i in every}),
    )


def samples(answers: Sequence[Answer], items: Mapping[str, TestItem], limit: int) -> tuple[Sample, ...]:
    """At most `limit` items side by side, all four outcomes among them: failures are never left out.

    The share of each outcome follows its size, with at least a quarter of the room for the items that the last
    condition still fails; within an outcome items stand in the order of their ids, which nobody chose.
    """
    table = _by_condition(answers)
    names = known_order(list(table))
    if not names:
        return ()
    shared = sorted(set.intersection(*(set(answered) for answered in table.values())))
    every = [_sample(item_id, names, table, items) for item_id in shared]
    failing = [s for s in every if s.outcome in ("lost", "neither")]
    passing = [s for s in every if s.outcome in ("gained", "both")]
    room = min(len(failing), max(limit // 4, round(limit * len(failing) / max(1, len(every)))))
    chosen = _spread(failing, room) + _spread(passing, limit - room)
    return tuple(_in_turn(chosen))


def _by_condition(answers: Sequence[Answer]) -> dict[str, dict[str, Answer]]:
    table: dict[str, dict[str, Answer]] = {}
    for answer in answers:
        table.setdefault(answer.condition, {})[answer.item_id] = answer
    return table


def _condition(name: str, answered: Mapping[str, Answer]) -> Condition:
    values = answered.values()
    return Condition(
        name=name,
        caption=_CAPTIONS.get(name.split(":")[0], name),
        mark=_mark(name),
        passed=wilson(sum(a.passed for a in values), len(values)),
        num_abstained=sum(a.abstained for a in values),
        num_limit_hits=sum(a.finish_reason == "length" for a in values),
    )


def _pair(
    first: str, second: str, table: Mapping[str, Mapping[str, Answer]], items: Mapping[str, TestItem]
) -> Pair | None:
    # in the order of the items, as `evaluate.compare` has them: the same bootstrap draws then meet the same families
    place = {item_id: number for number, item_id in enumerate(items)}
    shared = sorted(table[first].keys() & table[second].keys(), key=lambda i: (place.get(i, len(place)), i))
    if not shared:
        return None
    before = [table[first][i].passed for i in shared]
    after = [table[second][i].passed for i in shared]
    return Pair(
        first=first,
        second=second,
        lift=paired_bootstrap(before, after, [_family(i, items) for i in shared]),
        test=mcnemar_of(before, after),
        effect=cohens_h(sum(before) / len(before), sum(after) / len(after)),
    )


def _types(names: Sequence[str], table: Mapping[str, Mapping[str, Answer]]) -> tuple[TypeRow, ...]:
    """Types with at least ten items; p-values of the last condition against the one before, adjusted over types."""
    kinds = sorted({a.type for answered in table.values() for a in answered.values()})
    rows, p_values = [], []
    for kind in kinds:
        chosen = [{i: a for i, a in table[name].items() if a.type == kind} for name in names]
        if min(len(c) for c in chosen) < _SMALLEST_TYPE:
            continue
        rates = tuple(wilson(sum(a.passed for a in c.values()), len(c)) for c in chosen)
        rows.append((kind, rates))
        if len(names) > 1:
            shared = sorted(chosen[-1].keys() & chosen[-2].keys())
            p_values.append(
                mcnemar_of([chosen[-2][i].passed for i in shared], [chosen[-1][i].passed for i in shared]).p
            )
    adjusted: Sequence[float | None] = benjamini_hochberg(p_values) if p_values else [None] * len(rows)
    return tuple(TypeRow(kind, rates, p) for (kind, rates), p in zip(rows, adjusted, strict=True))


def _sample(
    item_id: str, names: Sequence[str], table: Mapping[str, Mapping[str, Answer]], items: Mapping[str, TestItem]
) -> Sample:
    given = [table[name][item_id] for name in names]
    before, after = any(a.passed for a in given[:-1]), given[-1].passed
    outcome = {(False, True): "gained", (True, False): "lost", (True, True): "both"}.get((before, after), "neither")
    item = items.get(item_id)
    return Sample(
        item_id=item_id,
        type=given[0].type,
        instruction=item.instruction if item else given[0].prompt.strip(),
        outcome=outcome,
        replies=tuple(map(_reply, given)),
    )


def _reply(answer: Answer) -> Reply:
    reasons = tuple(
        f"{name}: {verdict.get('reason') or verdict.get('value')}" for name, verdict in answer.verdicts.items()
    )
    return Reply(
        answer.condition,
        _mark(answer.condition),
        answer.text,
        answer.passed,
        answer.abstained,
        answer.finish_reason,
        reasons,
    )


def _mark(condition: str) -> int:
    """The colour of a condition, the same in every chart; a second tuned model gets one of its own."""
    name, _, label = condition.partition(":")
    return 3 if label else _MARKS.get(name, 3)


def _family(item_id: str, items: Mapping[str, TestItem]) -> str:
    return items[item_id].family if item_id in items else item_id


def _in_turn(chosen: Sequence[Sample]) -> list[Sample]:
    """One of each outcome, then the next of each: whoever reads only the first few sees failures too."""
    queues = [[s for s in chosen if s.outcome == outcome] for outcome in _OUTCOMES]
    longest = max(map(len, queues), default=0)
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)]


def _spread(found: Sequence[Sample], count: int) -> list[Sample]:
    """`count` of them at even distances, so that no type fills the page because of its name."""
    if count >= len(found):
        return list(found)
    ordered = sorted(found, key=lambda s: (s.type, s.item_id))
    return [ordered[int(i * len(ordered) / count)] for i in range(count)]
