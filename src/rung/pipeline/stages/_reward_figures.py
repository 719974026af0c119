"""What a reward stage says of its model: recomputed from stored readings of prompts that nothing was fitted to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rung.base.fingerprint import plain
from rung.base.seeds import derive
from rung.evaluate.probabilities import reliability, sigmoid
from rung.evaluate.quantiles import coverage, pinball
from rung.evaluate.rewards import against_mean, disjoint_pairs, length_bias, pair_accuracy, spearman, won
from rung.evaluate.statistics import paired_bootstrap
from rung.records.types import PairReward, RewardReading

__all__ = ["attribute_figures", "pair_figures", "ranking_figures"]


def pair_figures(rewards: Sequence[PairReward]) -> dict[str, Any]:
    """Accuracy (all, by kind), how right the stated probabilities are, and what length does; empty without pairs."""
    if not rewards:
        return {}
    gaps = [one.margin for one in rewards]
    lengths = [float(one.num_chosen_tokens - one.num_rejected_tokens) for one in rewards]
    kinds = sorted({one.kind for one in rewards})
    stated = [float(value) for value in sigmoid(np.abs(np.asarray(gaps)))]
    return {
        "accuracy": plain(pair_accuracy(gaps)),
        "by_kind": {kind: plain(pair_accuracy([r.margin for r in rewards if r.kind == kind])) for kind in kinds},
        "calibration": plain(reliability(stated, won(gaps))),
        "length_bias": plain(length_bias(gaps, lengths)),
    }


def attribute_figures(
    readings: Sequence[RewardReading], means: Mapping[str, float], levels: Sequence[float]
) -> dict[str, Any]:
    """By attribute: error against that of the training mean, rank correlation, accuracy over pairs of answers that have
    none in common, and with levels the coverage of each. Attributes without a mean have no scale and are passed over.
    """
    found = {}
    for place, name in enumerate(readings[0].attributes if readings else ()):
        rows = [one for one in readings if one.labels[place] is not None]
        if name not in means or not rows:
            continue
        ordered = sorted(rows, key=lambda one: derive(0, "pairs", one.id))
        labels = [float(one.labels[place] or 0.0) for one in ordered]
        quantiles = [one.values[place] for one in ordered]
        points = [math.fsum(values) / len(values) for values in quantiles]
        gaps = [points[better] - points[worse] for better, worse in disjoint_pairs(labels)]
        found[name] = {
            "n": len(rows),
            "against_mean": plain(against_mean(points, labels, means[name], [one.group for one in ordered])),
            "spearman": spearman(points, labels),
            "accuracy": plain(pair_accuracy(gaps)),
            "coverage": [{**plain(row), "gap": row.gap} for row in coverage(quantiles, labels, levels)]
            if levels else [],
            "pinball": pinball(quantiles, labels, levels) if levels else None,
        }  # fmt: skip
    return found


def ranking_figures(readings: Sequence[RewardReading]) -> dict[str, Any]:
    """By attribute, how often the better of two ranked answers to one prompt has the higher value: all such pairs, the
    prompts drawn whole for the interval; and the same by the two kinds. Empty where nothing is ranked."""
    pairs = list(_ranked(readings))
    if not pairs:
        return {}
    found: dict[str, Any] = {}
    for place, name in enumerate(readings[0].attributes):
        wins = [_won(better, worse, place) for better, worse in pairs]
        lift = paired_bootstrap([0.0] * len(wins), wins, [better.group for better, _ in pairs], num_resamples=2000)
        kinds: dict[str, list[float]] = {}
        for (better, worse), win in zip(pairs, wins, strict=True):
            kinds.setdefault(f"{better.kind} over {worse.kind}", []).append(win)
        found[name] = {
            "n": len(wins),
            "num_prompts": lift.num_clusters,
            "rate": lift.difference,
            "low": lift.interval.low,
            "high": lift.interval.high,
            "by_kind": {kind: math.fsum(own) / len(own) for kind, own in sorted(kinds.items())},
        }
    return found


def _ranked(readings: Sequence[RewardReading]) -> Any:
    """(better, worse) of every two answers to one prompt whose ranks differ."""
    groups: dict[str, list[RewardReading]] = {}
    for one in readings:
        if one.rank is not None:
            groups.setdefault(one.group, []).append(one)
    for group in groups.values():
        for better, worse in itertools.permutations(group, 2):
            if (better.rank or 0.0) > (worse.rank or 0.0):
                yield better, worse


def _won(better: RewardReading, worse: RewardReading, place: int) -> float:
    """1 when the better answer has the higher value, a half when the two are equal."""
    gap = math.fsum(better.values[place]) - math.fsum(worse.values[place])
    return 0.5 if gap == 0 else float(gap > 0)
