"""Rate limits: requests spaced so evenly that no minute holds more than is allowed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rung.engine.hosted.settings import LimitSettings

__all__ = ["Pace"]


class Pace:
    """Hands out times to send at. Without limits every time is now."""

    def __init__(self, limits: LimitSettings, clock: Callable[[], float]) -> None:
        self._per_request = 60.0 / limits.requests_per_minute if limits.requests_per_minute else 0.0
        self._per_token = 60.0 / limits.tokens_per_minute if limits.tokens_per_minute else 0.0
        self._clock, self._lock, self._free = clock, threading.Lock(), float("-inf")

    def delay(self, num_tokens: int) -> float:
        """Take the next free time for a request of `num_tokens`; how many seconds away it is."""
        with self._lock:
            now = self._clock()
            start = max(now, self._free)
            self._free = start + max(self._per_request, self._per_token * num_tokens)
            return start - now
