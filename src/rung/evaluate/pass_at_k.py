"""pass@k: the chance that one of k samples of an item passes, estimated from n >= k samples of each.

The unbiased estimator of Chen et al. (2021, arXiv 2107.03374, equation 1): 1 - C(n - c, k) / C(n, k) for c passes.
1 - (1 - c/n)^k, which is often used, is too low. Samples of one item are not independent items: intervals come from a
bootstrap over items, or over families of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rung.base.errors import DataError
from rung.evaluate.statistics import Interval, paired_bootstrap, wilson

__all__ = ["PassAtK", "estimate_pass_at_k", "pass_at_k"]


@dataclass(frozen=True, slots=True)
class PassAtK:
    """The mean over items with its interval. `method` says where the interval is from."""

    k: int
    value: float
    interval: Interval
    num_items: int
    num_samples: int
    method: str


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """The unbiased estimate for one item.

    Raises:
        DataError: fewer samples than k, or more passes than samples.
    """
    if not 1 <= k <= num_samples or not 0 <= num_passed <= num_samples:
        raise DataError(f"pass@{k} cannot be told from {num_passed} passes of {num_samples} samples")
    return 1.0 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


def estimate_pass_at_k(
    counts: Sequence[tuple[int, int]],
    k: int,
    clusters: Sequence[Hashable] | None = None,
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> PassAtK:
    """The mean over items of (samples, passes), with a 95 % interval.

    Where all items have the same value a bootstrap would have no width, and Wilson's interval over items is given.

    Raises:
        DataError: no items, or counts that allow no estimate.
    """
    values = [pass_at_k(num_samples, num_passed, k) for num_samples, num_passed in counts]
    lift = paired_bootstrap([0.0] * len(values), values, clusters, num_resamples=num_resamples, seed=seed)
    interval, method = lift.interval, "bootstrap over items" if clusters is None else "bootstrap over families"
    if len(set(values)) == 1 and values[0] in (0.0, 1.0):
        interval, method = wilson(round(values[0] * lift.num_clusters), lift.num_clusters).interval, "Wilson"
    return PassAtK(k, lift.difference, interval, len(values), sum(n for n, _ in counts), method)
