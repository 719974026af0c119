"""Spikes of entropy against what is usual for this very sequence.

The figures: a moving average that keeps 0.9 of the past, the spread around it, and a spike where z exceeds 3 for at
least 2 of 5 tokens. A level that stays high is the sequence's own baseline and no spike, and thresholds in nats are not
carried from one tokenizer to another. A spike is a candidate for a question and no more: synonyms and layout raise
entropy too, and confident errors have none. Strings and identifiers of code are not told apart from prose.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Self

import pydantic

from rung.base.settings import Field, Settings

__all__ = ["SpikeSettings", "Spikes", "find_spikes", "spike_height"]


class SpikeSettings(Settings):
    """What counts as a spike. Entropies are of the unmodified model, in nats."""

    keep: float = Field(0.9, gt=0, lt=1, description="weight of the past in the moving average and spread")
    limit: float = Field(3.0, gt=0, description="spreads above the average from which a token counts as high")
    num_high: int = Field(2, ge=1, description="high tokens that make a spike")
    window: int = Field(5, ge=1, description="tokens among which they are counted")
    warm_up: int = Field(8, ge=2, description="tokens of a sequence that only make its baseline")
    least_spread: float = Field(0.1, gt=0, description="nats; a flatter sequence is taken to vary by so much")

    @pydantic.model_validator(mode="after")
    def _possible(self) -> Self:
        if self.num_high > self.window:
            raise ValueError(f"num_high {self.num_high} of a window of {self.window} tokens are never reached")
        return self


class Spikes:
    """Reads entropies one at a time; one stretch of high tokens is one spike.

    High tokens stay out of the baseline while a spike may be under way, for they would hide the next one; a level that
    stays high for a whole window is taken in after all.
    """

    def __init__(self, settings: SpikeSettings | None = None) -> None:
        self._settings = settings or SpikeSettings()
        self._first: list[float] = []
        self._mean = self._variance = 0.0
        self._held: list[float] = []
        self._high: deque[bool] = deque(maxlen=self._settings.window)
        self._under_way = False

    def add(self, entropy: float) -> bool:
        """Take the next entropy; true exactly where a spike becomes certain."""
        settings = self._settings
        if len(self._first) < settings.warm_up:
            self._begin(entropy)
            return False
        high = self.height(entropy) > settings.limit
        self._learn(entropy, high)
        self._high.append(high)
        found = high and not self._under_way and sum(self._high) >= settings.num_high
        self._under_way = found or (high and self._under_way)
        if found:
            self._high.clear()
        return found

    def height(self, entropy: float) -> float:
        """z: spreads above the moving average; 0.0 while the baseline is made."""
        if len(self._first) < self._settings.warm_up:
            return 0.0
        spread = max(math.sqrt(self._variance), self._settings.least_spread)
        return (entropy - self._mean) / spread

    def _begin(self, entropy: float) -> None:
        self._first.append(entropy)
        count = len(self._first)
        self._mean = sum(self._first) / count
        self._variance = sum((value - self._mean) ** 2 for value in self._first) / count

    def _learn(self, entropy: float, high: bool) -> None:
        self._held = [*self._held, entropy] if high else []
        if high and len(self._held) < self._settings.window:
            return
        for value in self._held or [entropy]:
            step = value - self._mean
            self._mean += (1 - self._settings.keep) * step
            self._variance = self._settings.keep * (self._variance + (1 - self._settings.keep) * step * step)
        self._held = []


def find_spikes(entropies: Sequence[float], settings: SpikeSettings | None = None) -> tuple[int, ...]:
    """The places at which `Spikes` says so."""
    spikes = Spikes(settings)
    return tuple(place for place, entropy in enumerate(entropies) if spikes.add(entropy))


def spike_height(entropies: Sequence[float], settings: SpikeSettings | None = None) -> float:
    """How near a series comes to a spike, as one number: of every window the `num_high`-th largest z, and of these the
    largest; 0.0 for a series that ends before a window does after its baseline.
    """
    settings = settings or SpikeSettings()
    spikes, heights = Spikes(settings), list[float]()
    for entropy in entropies:
        heights.append(spikes.height(entropy))
        spikes.add(entropy)
    heights = heights[settings.warm_up :]
    windows = [sorted(heights[stop - settings.window : stop]) for stop in range(settings.window, len(heights) + 1)]
    return max((window[-settings.num_high] for window in windows), default=0.0)
