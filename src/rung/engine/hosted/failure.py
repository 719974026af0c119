"""How a request to a provider can fail. Nothing here holds a client's own error: those carry headers and keys."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Failed", "Failure", "Unreadable"]


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt, in words that may be shown. `charged`: the provider may charge for it all the same.

    `retry_after` are the seconds that the server asked for, 0 where it did not.
    """

    what: str
    retryable: bool
    charged: bool = False
    retry_after: float = 0.0
    hint: str = ""


class Failed(Exception):
    """Carries a failure through the retries."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.what)
        self.failure = failure


class Unreadable(Exception):
    """A reply that is not what the protocol promises; the text says what was wrong, never what it said instead.

    `retryable` is False where the same question would get the same reply.
    """

    def __init__(self, what: str, retryable: bool = True) -> None:
        super().__init__(what)
        self.retryable = retryable
