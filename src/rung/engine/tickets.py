"""Requests on their way through a running engine: what they are told, how they may end, and the counts of all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rung.base.errors import Busy, RungError
from rung.engine.engine import Memory
from rung.engine.jobs import Job
from rung.engine.lane import Lane, Token
from rung.records.contracts import Completion

__all__ = ["Expired", "Figures", "News", "QueueFull", "Stopping", "Ticket"]


class QueueFull(Busy):
    """As many sequences wait as may wait."""

    code = "queue_full"


class Stopping(Busy):
    """No new requests are taken, and what did not end in time was given up."""

    code = "stopping"


class Expired(RungError):
    """A request did not end within its time."""

    code = "timeout"


@dataclass(frozen=True, slots=True)
class News:
    """What is new of a request: `text` and the `tokens` it came from. The last news carries the `completion`, or the
    `error` that ended it."""

    text: str = ""
    tokens: tuple[Token, ...] = ()
    completion: Completion | None = None
    error: RungError | None = None


@dataclass(slots=True, eq=False)
class Ticket:
    """A request on its way. `listen` is called by the engine's thread and must not block; `deadline` is in seconds of
    the monotonic clock. How much was told already outlives a restart from the prompt."""

    job: Job
    listen: Callable[[News], None]
    stream: bool
    deadline: float
    cancelled: bool = False
    num_chars: int = 0
    num_tokens: int = 0

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.cancelled or time.monotonic() > self.deadline

    def tell(self, lane: Lane) -> None:
        """Pass on what the lane has beyond what was told."""
        ended = lane.finish_reason is not None
        if not (ended or self.stream):
            return
        shown = lane.shown()
        text, tokens = shown[self.num_chars :], lane.tokens(self.num_tokens, shown)
        self.num_chars, self.num_tokens = self.num_chars + len(text), self.num_tokens + len(tokens)
        if ended or text or tokens:
            self.listen(News(text, tokens, lane.completion() if ended else None))


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts since the start and the state now. `busy_seconds` were spent in steps; `num_restarts` counts sequences
    that lack of memory sent back to their prompts."""

    num_slots: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_steps: int = 0
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    num_restarts: int = 0
    num_loads: int = 0
    load_seconds: float = 0.0
    busy_seconds: float = 0.0
    loaded: bool = False
    memory: Memory = field(default_factory=lambda: Memory("", 0, 0))
