"""Trying again: back-off with jitter, the server's own wish, and an end in time. Brings tenacity."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import tenacity

from rung.base.seeds import uniform
from rung.engine.hosted.failure import Failed
from rung.engine.hosted.settings import RetrySettings

__all__ = ["retried"]

T = TypeVar("T")


def retried(
    attempt: Callable[[], T],
    settings: RetrySettings,
    *,
    jitter: int,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> T:
    """The first answer of `attempt`. `jitter` seeds the random half of each wait.

    Raises:
        Failed: the last failure, when it may not be tried again, or attempts or time are used up.
    """
    began = clock()

    def wait(state: tenacity.RetryCallState) -> float:
        """Seconds until the next attempt."""
        longest = min(settings.cap_seconds, settings.base_seconds * 2.0 ** min(state.attempt_number - 1, 60))
        own = longest * (0.5 + 0.5 * uniform(jitter, state.attempt_number))
        failure = _failure_of(state)
        return max(own, failure.failure.retry_after if failure else 0.0)

    def used_up(state: tenacity.RetryCallState) -> bool:
        """Whether there is no other attempt, or it would begin too late; then there is no point in waiting for it."""
        late = clock() - began + state.upcoming_sleep > settings.seconds
        return late or state.attempt_number >= settings.attempts

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, Failed) and error.failure.retryable),
        wait=wait,
        stop=used_up,
        sleep=sleep,
        reraise=True,
    )(attempt)


def _failure_of(state: tenacity.RetryCallState) -> Failed | None:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, Failed) else None
