"""Speed, memory and device over time, with a warning when the speed drops.

Speed is tokens per second of decoding, so an idle server is not a slow one. It is compared with earlier samples of
about as many sequences at once, because a fuller batch is faster.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

from rung.app.server.device import Readings
from rung.base.events import Events
from rung.engine.tickets import Figures

__all__ = ["Monitor", "Sample"]

_KEPT = 120
_ENOUGH = 5
_DROP = 0.5
_ALIKE = 1.25


@dataclass(frozen=True, slots=True)
class Sample:
    """Between two looks: `width` sequences at once on average, tokens per second while busy, share of time busy."""

    width: float = 0.0
    tokens_per_second: float = 0.0
    busy: float = 0.0


class Monitor:
    """Takes a sample whenever it is told to; `last` is the latest."""

    def __init__(self, events: Events) -> None:
        self._events, self._before, self._before_at = events, Figures(), 0.0
        self._kept: deque[Sample] = deque(maxlen=_KEPT)
        self._num_samples, self._dropped = 0, False
        self.last = Sample()

    def take(self, now: float, figures: Figures, readings: Readings) -> Sample:
        """The sample from the last call until `now` (seconds of any clock), told to the events."""
        before, seconds = self._before, now - self._before_at
        tokens, steps = figures.num_tokens - before.num_tokens, figures.num_steps - before.num_steps
        busy = figures.busy_seconds - before.busy_seconds
        self._before, self._before_at = figures, now
        self._num_samples += 1
        self.last = Sample()
        if steps and busy > 0 and seconds > 0:
            self.last = Sample(tokens / steps, tokens / busy, min(1.0, busy / seconds))
            self._warn(self.last)
            self._kept.append(self.last)
        self._tell(readings)
        return self.last

    def _warn(self, sample: Sample) -> None:
        alike = [s.tokens_per_second for s in self._kept if sample.width / _ALIKE <= s.width <= sample.width * _ALIKE]
        if len(alike) < _ENOUGH:
            return
        usual = median(alike)
        dropped = sample.tokens_per_second < _DROP * usual
        if dropped and not self._dropped:
            self._events.log(
                "generation has become slow",
                level="warning",
                tokens_per_second=round(sample.tokens_per_second, 1),
                usual=round(usual, 1),
                sequences=round(sample.width, 1),
            )
        self._dropped = dropped

    def _tell(self, readings: Readings) -> None:
        step = self._num_samples
        self._events.metric("serve/tokens_per_second", self.last.tokens_per_second, step)
        self._events.metric("serve/busy", self.last.busy, step)
        figures = {
            "serve/resident_memory_bytes": readings.resident_bytes,
            "serve/device_memory_bytes": readings.allocated_bytes,
            "serve/device_used": readings.used,
        }
        for name, value in figures.items():
            if value is not None:
                self._events.metric(name, value, step)
