"""Conditions compared on the same items: overall and by type, paired, with everything a report or manifest needs.

Abstentions, answers cut by the token limit and empty answers are counted apart. `passed` counts them as they were
scored, an abstention as not passed; `decided` leaves them out: the score under both conventions. Nothing is compared
that is not paired item by item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from rung.base.errors import DataError
from rung.base.settings import Field, Settings
from rung.evaluate.statistics import (
    ClusteredMean,
    Detectable,
    Lift,
    McNemar,
    Proportion,
    benjamini_hochberg,
    clustered_mean,
    cohens_h,
    holm,
    item_correlation,
    mcnemar_of,
    minimum_detectable_effect,
    paired_bootstrap,
    wilson,
)
from rung.records.types import Answer, TestItem

__all__ = ["OVERALL", "CompareSettings", "Comparison", "ConditionRow", "PairRow", "compare"]

OVERALL = "overall"


class CompareSettings(Settings):
    """How conditions are compared."""

    level: float = Field(default=0.95, gt=0.5, lt=1, description="of every interval")
    num_resamples: int = Field(default=10_000, ge=100, description="bootstrap samples of the lift")
    seed: int = Field(default=0, ge=0, description="of the bootstrap")
    alpha: float = Field(default=0.05, gt=0, lt=1, description="limit for Holm-adjusted p-values of whole conditions")
    fdr: float = Field(default=0.10, gt=0, lt=1, description="false discovery rate over types, within a pair")
    minimum_per_type: int = Field(default=10, ge=1, description="types with fewer items get no row")


@dataclass(frozen=True, slots=True)
class ConditionRow:
    """One condition on one type (or `overall`)."""

    condition: str
    type: str
    passed: Proportion
    decided: Proportion
    num_abstained: int
    num_truncated: int
    num_empty: int


@dataclass(frozen=True, slots=True)
class PairRow:
    """`second` against `first` on one type (or `overall`).

    `effect` is Cohen's h; `clustered` the t-test over families (None with a single family). `adjusted_p` is Holm's over
    the pairs for overall rows and Benjamini-Hochberg's over the types of this pair for the others; `significant`
    compares it with `alpha` or `fdr`.
    """

    first: str
    second: str
    type: str
    first_rate: float
    second_rate: float
    lift: Lift
    test: McNemar
    effect: float
    correlation: float | None
    clustered: ClusteredMean | None
    adjusted_p: float
    significant: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows; `skipped_types` had too few items for a row, `detectable` is what this many items can show."""

    num_items: int
    conditions: tuple[ConditionRow, ...]
    pairs: tuple[PairRow, ...]
    skipped_types: Mapping[str, int]
    detectable: Detectable
    settings: CompareSettings

    def condition(self, name: str, type_: str = OVERALL) -> ConditionRow:
        """The row of a condition.

        Raises:
            DataError: there is none (unknown condition, or a type with too few items).
        """
        found = [row for row in self.conditions if (row.condition, row.type) == (name, type_)]
        if not found:
            known = sorted({row.condition for row in self.conditions})
            raise DataError(f"no row for condition '{name}' and type '{type_}'", hint=f"conditions: {', '.join(known)}")
        return found[0]

    def pair(self, first: str, second: str, type_: str = OVERALL) -> PairRow | None:
        """The row of `second` against `first`, None when this type has too few items for one."""
        return next((r for r in self.pairs if (r.first, r.second, r.type) == (first, second, type_)), None)


def compare(
    answers: Mapping[str, Sequence[Answer]], items: Sequence[TestItem], settings: CompareSettings | None = None
) -> Comparison:
    """Compare conditions, each against every one named before it.

    Args:
        answers: condition -> its answers, baselines first; every condition must answer exactly the given items.
        items: the test items, which name types and families.
        settings: levels, seed and limits.

    Raises:
        DataError: no items, fewer than two conditions, an item answered twice, or conditions that are not paired.
    """
    settings = settings or CompareSettings()
    paired = _paired(answers, items)
    counts = Counter(item.type for item in items)
    types = [name for name in sorted(counts) if counts[name] >= settings.minimum_per_type]
    rows = [
        _condition_row(name, kind, _of_type(kind, items, found), settings.level)
        for name, found in paired.items()
        for kind in (OVERALL, *types)
    ]
    overall = [
        _pair_row(first, second, OVERALL, items=items, paired=paired, settings=settings)
        for first, second in combinations(paired, 2)
    ]
    pairs = _adjust(overall, holm([row.test.p for row in overall]), settings.alpha)
    for first, second in combinations(paired, 2):
        by_type = [_pair_row(first, second, kind, items=items, paired=paired, settings=settings) for kind in types]
        pairs += _adjust(by_type, benjamini_hochberg([row.test.p for row in by_type]), settings.fdr)
    return Comparison(
        num_items=len(items),
        conditions=tuple(rows),
        pairs=tuple(pairs),
        skipped_types={name: counts[name] for name in sorted(counts) if name not in types},
        detectable=minimum_detectable_effect(len(items)),
        settings=settings,
    )


def _paired(answers: Mapping[str, Sequence[Answer]], items: Sequence[TestItem]) -> dict[str, list[Answer]]:
    """The answers in the order of the items, once it is certain that there is exactly one each."""
    if not items:
        raise DataError("there are no items to compare on")
    if len(answers) < 2:
        raise DataError(f"a comparison needs two conditions, got {list(answers)}")
    wanted = [item.id for item in items]
    _refuse_twice(wanted, "the items")
    paired = {}
    for name, given in answers.items():
        _refuse_twice([answer.item_id for answer in given], f"condition '{name}'")
        found = {answer.item_id: answer for answer in given}
        missing, strange = set(wanted) - found.keys(), found.keys() - set(wanted)
        if missing or strange:
            which = f"does not answer item '{min(missing)}'" if missing else f"answers unknown item '{min(strange)}'"
            raise DataError(
                f"condition '{name}' {which} ({len(missing)} missing, {len(strange)} unknown)",
                hint="paired tests need the same items in every condition; evaluate again with the same suite version",
            )
        paired[name] = [found[item_id] for item_id in wanted]
    return paired


def _refuse_twice(ids: Sequence[str], place: str) -> None:
    twice = [item_id for item_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"item '{twice[0]}' appears more than once ({len(twice)} such items)", place=place)


def _of_type(kind: str, items: Sequence[TestItem], answers: Sequence[Answer]) -> list[Answer]:
    return [answer for item, answer in zip(items, answers, strict=True) if kind in (OVERALL, item.type)]


def _condition_row(name: str, kind: str, answers: Sequence[Answer], level: float) -> ConditionRow:
    clear = [a for a in answers if not (a.abstained or a.finish_reason == "length" or not a.text.strip())]
    return ConditionRow(
        condition=name,
        type=kind,
        passed=wilson(sum(a.passed and not a.abstained for a in answers), len(answers), level),
        decided=wilson(sum(a.passed for a in clear), len(clear), level),
        num_abstained=sum(a.abstained for a in answers),
        num_truncated=sum(a.finish_reason == "length" for a in answers),
        num_empty=sum(not a.text.strip() for a in answers),
    )


def _pair_row(
    first: str,
    second: str,
    kind: str,
    *,
    items: Sequence[TestItem],
    paired: Mapping[str, Sequence[Answer]],
    settings: CompareSettings,
) -> PairRow:
    before, after = (
        [a.passed and not a.abstained for a in _of_type(kind, items, paired[name])] for name in (first, second)
    )
    families = [item.family for item in items if kind in (OVERALL, item.type)]
    lift = paired_bootstrap(
        before, after, families, num_resamples=settings.num_resamples, seed=settings.seed, level=settings.level
    )
    differences = [float(b) - float(a) for a, b in zip(before, after, strict=True)]
    rates = sum(before) / len(before), sum(after) / len(after)
    test = mcnemar_of(before, after)
    clustered = clustered_mean(differences, families, settings.level) if len(set(families)) > 1 else None
    correlation = item_correlation(before, after)
    effect = cohens_h(*rates)
    return PairRow(first, second, kind, *rates, lift, test, effect, correlation, clustered, test.p, False)


def _adjust(rows: Sequence[PairRow], adjusted: Sequence[float], limit: float) -> list[PairRow]:
    return [replace(row, adjusted_p=p, significant=p <= limit) for row, p in zip(rows, adjusted, strict=True)]
