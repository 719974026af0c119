"""Where a run on rollouts stands: what its checkpoint holds beside weights and optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rung.train.checkpoint import State
from rung.train.health import StepHealth

__all__ = ["RolloutState", "read_state"]


@dataclass(frozen=True, slots=True)
class RolloutState(State):
    """`num_drawn` prompts were drawn so far, which is the next one's place in the order and its group's number.

    `history` are the figures of every step, `exams` (step, held-out pass rate), `watched` what the hidden verifier's
    watch remembers. `stopped` says why the run ended before its last step; empty: it did not.
    """

    num_drawn: int = 0
    num_rollouts: int = 0
    num_sampled: int = 0
    num_trained: int = 0
    num_tokens: int = 0
    num_updates: int = 0
    discarded: Mapping[str, int] = field(default_factory=dict)
    history: tuple[StepHealth, ...] = ()
    exams: tuple[tuple[int, float], ...] = ()
    best_rate: float | None = None
    watched: Any = None
    stopped: str = ""
    seconds: float = 0.0


def read_state(values: dict[str, Any]) -> RolloutState:
    """A state from what a checkpoint stored of it."""
    history = tuple(StepHealth(**row) for row in values["history"])
    exams = tuple((int(step), float(rate)) for step, rate in values["exams"])
    return RolloutState(**{**values, "history": history, "exams": exams})
