"""Intervals and exact tests of counts, for every room that counts something."""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = ["fair_coin_tail", "sign_test", "wilson_interval"]


def wilson_interval(successes: float, number: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of successes / number; (0, 1) when nothing was counted.

    Counts may be fractional, as weighted ones are.
    """
    if number <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / number
    scale = 1 + z**2 / number
    centre = (share + z**2 / (2 * number)) / scale
    half = z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def fair_coin_tail(at_least: int, number: int) -> float:
    """The chance of `at_least` heads or more in `number` throws of a fair coin, exact."""
    ways, total = 1, 0  # ways to throw `number - heads` tails, from all heads downwards
    for heads in range(number, max(0, at_least) - 1, -1):
        total += ways
        ways = ways * heads // (number - heads + 1)
    return total / (1 << number)


def sign_test(first: int, second: int) -> float:
    """Two-sided exact p that `first` and `second` are sides of a fair coin; 1.0 when both are 0."""
    number = first + second
    return min(1.0, 2 * fair_coin_tail(max(first, second), number)) if number else 1.0
