"""Are stated probabilities right? Reliability, Brier score, expected calibration error, and one number that mends them.

A forecast is a probability with what came of it (1 or 0). For a model of pairs the forecast is that the answer which it
prefers is the better one. Equal-width bins (Guo et al., 2017, arXiv 1706.04599); the calibration error depends on the
bins and is biased upwards in small samples, so the Brier score stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rung.base.errors import DataError
from rung.evaluate.statistics import Proportion, wilson

__all__ = ["Bin", "Reliability", "fit_temperature", "reliability", "sigmoid"]

_LOW, _HIGH = -7.0, 7.0  # logs of the temperatures that are looked at


@dataclass(frozen=True, slots=True)
class Bin:
    """Forecasts between two limits: their mean, and how often they came true."""

    low: float
    high: float
    mean_forecast: float
    came_true: Proportion


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins that hold a forecast, the Brier score (mean squared error; a constant 0.5 has 0.25), the expected
    calibration error (mean over forecasts of |mean forecast - frequency| of their bin), and the mean log loss in nats.
    """

    n: int
    bins: tuple[Bin, ...]
    brier: float
    calibration_error: float
    log_loss: float


def reliability(forecasts: Sequence[float], outcomes: Sequence[bool], num_bins: int = 10) -> Reliability:
    """The figures of forecasts.

    Raises:
        DataError: none, lists of different length, or a forecast outside 0 to 1.
    """
    stated, came = np.asarray(forecasts, float), np.asarray(outcomes, float)
    if len(stated) != len(came) or not len(stated):
        raise DataError(f"{len(stated)} forecasts and {len(came)} outcomes")
    if not np.all((stated >= 0) & (stated <= 1)):
        raise DataError("a forecast is a probability, from 0 to 1")
    places = np.minimum((stated * num_bins).astype(int), num_bins - 1)
    bins, error = [], 0.0
    for place in np.unique(places):
        inside = places == place
        mean, true = float(stated[inside].mean()), wilson(int(came[inside].sum()), int(inside.sum()))
        bins.append(Bin(place / num_bins, (place + 1) / num_bins, mean, true))
        error += abs(mean - true.rate) * true.n / len(stated)
    held = np.clip(stated, 1e-12, 1 - 1e-12)
    log_loss = float(-np.mean(came * np.log(held) + (1 - came) * np.log1p(-held)))
    return Reliability(len(stated), tuple(bins), float(np.mean((stated - came) ** 2)), error, log_loss)


def fit_temperature(logits: Sequence[float], outcomes: Sequence[bool]) -> float:
    """The T for which sigmoid(logit / T) has the least log loss; 1.0 without any logit.

    Found by halving on 1 / T, in which the loss is convex. Held to exp(-7) .. exp(7): separable outcomes want T = 0.
    """
    given, came = np.asarray(logits, float), np.asarray(outcomes, float)
    if not len(given):
        return 1.0

    def slope(inverse: float) -> float:
        """Derivative of the log loss by the inverse of T."""
        return float(np.sum((sigmoid(given * inverse) - came) * given))

    low, high = _LOW, _HIGH
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def sigmoid(
    logits: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(np.asarray(logits) / 2))
