"""What playing an item gives: the rollout that is trained on, and the answer that is judged."""

from __future__ import annotations

from dataclasses import dataclass

from rung.records.contracts import Trace
from rung.records.rollout import Rollout

__all__ = ["Played"]


@dataclass(frozen=True, slots=True)
class Played:
    """One item, played once."""

    rollout: Rollout
    trace: Trace
