"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to forget on resume."""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["Schedule", "learning_rate_factor"]

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate_factor(schedule: Schedule, step: int, num_steps: int, num_warmup_steps: int) -> float:
    """Share of the peak learning rate at `step` (from 0).

    Warm-up rises as (step + 1) / num_warmup_steps, so no step has rate 0; after it `constant` stays at 1, `linear`
    falls to 0 at num_steps as 1 - p, and `cosine` as (1 + cos(pi p)) / 2, p being the share of the rest that is done.
    """
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    done = min((step - num_warmup_steps) / max(num_steps - num_warmup_steps, 1), 1.0)
    if schedule == "linear":
        return 1.0 - done
    return 0.5 * (1.0 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0
