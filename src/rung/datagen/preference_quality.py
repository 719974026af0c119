"""How good preferences are, in figures: whether two labellers agree, and whether labels follow length.

Agreement is Cohen's kappa (1960) over prefer-first, prefer-second and tie: raw agreement overstates it by tens of
points where one answer is common. Length bias is the correlation of the label with the difference in length, each pair
taken in both orders, so that no drawn order adds noise: with d words more in the chosen answer, mean(d) over
root-mean-square(d), 0 for no bias and 1 or -1 when the longer or shorter one always wins by the same. Intervals are
bootstrap percentiles over prompts, whose pairs fall together.

`balanced` takes pairs away, the same ones on every machine, until the correlation is within its limit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rung.base.errors import DataError
from rung.base.proportions import wilson_interval
from rung.base.seeds import derive
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.records.types import Drop, PreferencePair

__all__ = [
    "Balanced",
    "Judgement",
    "LabellerAgreement",
    "LengthBias",
    "PreferenceQuality",
    "QualitySettings",
    "agreement",
    "balanced",
    "length_bias",
    "preference_quality",
]

Preferred = Literal["first", "second", "tie"]
_PART = "length_balance"


class QualitySettings(BaseSettings):
    """What is good enough."""

    max_length_correlation: float = Field(0.1, gt=0, le=1, description="correlation of label and length gap to accept")
    min_kappa: float = Field(0.4, ge=-1, le=1, description="agreement of two labellers below which is warned")
    num_resamples: int = Field(1000, ge=100, le=100_000, description="bootstrap samples, over prompts")
    seed: int = Field(0, ge=0, description="of the bootstrap")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What two labellers said about the same two answers to a prompt."""

    instruction: str
    one: Preferred
    other: Preferred


@dataclass(frozen=True, slots=True)
class LabellerAgreement:
    """Kappa with its interval; `observed` is raw agreement, `expected` what chance alone would give."""

    num_judgements: int
    num_prompts: int
    observed: float
    expected: float
    kappa: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LengthBias:
    """Correlation of label and length gap with its interval; the share of pairs of unequal length that the longer won.

    `longer_low` and `longer_high` bound that share (Wilson, 95 %). None where no pair differs in length.
    """

    num_pairs: int
    correlation: float | None
    low: float
    high: float
    longer_share: float | None
    longer_low: float
    longer_high: float


@dataclass(frozen=True, slots=True)
class PreferenceQuality:
    """The report of a set of preferences; `warnings` say what to look at, empty when nothing is."""

    length: LengthBias
    agreement: LabellerAgreement | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Balanced:
    """Pairs whose labels do not follow length, in order, and those taken away."""

    kept: tuple[PreferencePair, ...]
    dropped: tuple[Drop, ...]


def preference_quality(
    pairs: Sequence[PreferencePair], judgements: Sequence[Judgement] = (), settings: QualitySettings | None = None
) -> PreferenceQuality:
    """The figures of pairs, and of doubly labelled ones where there are any."""
    settings = settings or QualitySettings()
    bias = length_bias(pairs, settings)
    agreed = agreement(judgements, settings) if judgements else None
    warnings = []
    if bias.correlation is not None and abs(bias.correlation) > settings.max_length_correlation:
        longer = "longer" if bias.correlation > 0 else "shorter"
        warnings.append(f"the {longer} answer tends to be preferred (correlation {bias.correlation:.2f})")
    if agreed is None:
        warnings.append("no pair was labelled twice: agreement is unknown")
    elif agreed.low < settings.min_kappa:
        warnings.append(f"two labellers agree too little (kappa {agreed.kappa:.2f}, at least {agreed.low:.2f})")
    return PreferenceQuality(bias, agreed, tuple(warnings))


def agreement(judgements: Sequence[Judgement], settings: QualitySettings | None = None) -> LabellerAgreement:
    """Cohen's kappa of two labellers.

    Raises:
        DataError: nothing was judged twice.
    """
    settings = settings or QualitySettings()
    if not judgements:
        raise DataError("agreement needs pairs that two labellers judged")
    observed, expected = _agreed(judgements)
    prompts = [judgement.instruction for judgement in judgements]
    low, high = _bootstrap(prompts, judgements, lambda some: _kappa(*_agreed(some)), settings)
    kappa = _kappa(observed, expected)
    return LabellerAgreement(len(judgements), len(set(prompts)), observed, expected, kappa, low, high)


def length_bias(pairs: Sequence[PreferencePair], settings: QualitySettings | None = None) -> LengthBias:
    """Whether labels follow length, in words."""
    settings = settings or QualitySettings()
    gaps = [_gap(pair) for pair in pairs]
    correlation = _correlation(gaps)
    longer, unequal = sum(gap > 0 for gap in gaps), sum(gap != 0 for gap in gaps)
    if correlation is None:
        return LengthBias(len(pairs), None, -1.0, 1.0, None, 0.0, 1.0)
    prompts = [pair.instruction for pair in pairs]
    low, high = _bootstrap(prompts, gaps, lambda some: _correlation(some) or 0.0, settings)
    return LengthBias(len(pairs), correlation, low, high, longer / unequal, *wilson_interval(longer, unequal))


def balanced(pairs: Sequence[PreferencePair], settings: QualitySettings | None = None) -> Balanced:
    """Take away pairs of the side that wins by length, the widest gap first, until the correlation is within its limit.

    Equal gaps go by the pair's id. At least one pair of unequal length stays only where the other side has one too.
    """
    settings = settings or QualitySettings()
    gaps = {number: _gap(pair) for number, pair in enumerate(pairs)}
    gone: set[int] = set()
    total, squares = sum(gaps.values()), sum(gap * gap for gap in gaps.values())
    side = 1 if total > 0 else -1
    order = sorted((n for n, gap in gaps.items() if gap * side > 0), key=lambda n: (-abs(gaps[n]), pairs[n].id))
    for number in order:
        if _within(total, squares, len(pairs) - len(gone), settings.max_length_correlation):
            break
        gone.add(number)
        total, squares = total - gaps[number], squares - gaps[number] ** 2
    dropped = tuple(
        Drop(pairs[n].id, pairs[n].rejected, _PART, "follows_length", detail={"gap": gaps[n]}) for n in sorted(gone)
    )
    return Balanced(tuple(pair for n, pair in enumerate(pairs) if n not in gone), dropped)


def _within(total: int, squares: int, number: int, limit: float) -> bool:
    return not squares or abs(total) / math.sqrt(number * squares) <= limit


def _gap(pair: PreferencePair) -> int:
    """Words of the chosen answer less those of the rejected one."""
    return len(pair.chosen.split()) - len(pair.rejected.split())


def _correlation(gaps: Sequence[int]) -> float | None:
    squares = sum(gap * gap for gap in gaps)
    return sum(gaps) / math.sqrt(len(gaps) * squares) if squares else None


def _agreed(judgements: Sequence[Judgement]) -> tuple[float, float]:
    """Observed and chance agreement."""
    number = len(judgements)
    one, other = Counter(j.one for j in judgements), Counter(j.other for j in judgements)
    observed = sum(j.one == j.other for j in judgements) / number
    return observed, sum(one[label] * other[label] for label in one) / number**2


def _kappa(observed: float, expected: float) -> float:
    """1.0 where both labellers always say the same one thing: chance explains it, but so would agreement."""
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)


def _bootstrap(
    prompts: Sequence[Hashable],
    values: Sequence[Any],
    figure: Callable[[Sequence[Any]], float],
    settings: QualitySettings,
) -> tuple[float, float]:
    """The middle 95 % of a figure over samples of whole prompts."""
    groups: dict[Hashable, list[Any]] = {}
    for prompt, value in zip(prompts, values, strict=True):
        groups.setdefault(prompt, []).append(value)
    rows = list(groups.values())
    drawn = np.random.default_rng(derive(settings.seed, "preference_quality"))
    picks = drawn.integers(0, len(rows), size=(settings.num_resamples, len(rows)))
    found = [figure([value for place in pick for value in rows[place]]) for pick in picks]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
