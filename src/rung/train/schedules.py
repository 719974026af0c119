"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to forget on resume."""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["Schedule", "learning_rate_factor"]

Schedule = Literal["constant", "linear", "cosine", "stable_decay"]
_DECAY = 0.2


def learning_rate_factor(schedule: Schedule, step: int, num_steps: int, num_warmup_steps: int) -> float:
    """Share of the peak learning rate at `step` (from 0).

    Warm-up rises as (step + 1) / num_warmup_steps, so no step has rate 0; after it `constant` stays at 1, `linear`
    falls to 0 at num_steps as 1 - p, and `cosine` as (1 + cos(pi p)) / 2, p being the share of the rest that is done.
    `stable_decay` stays at 1 and falls to 0 as 1 - sqrt(q), q being the share done of the last fifth (Hu et al. 2024,
    arXiv 2404.06395, with the decay that Haegele et al. 2024, arXiv 2405.18392, found best): a run can be prolonged
    from any step before that.
    """
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    done = min((step - num_warmup_steps) / max(num_steps - num_warmup_steps, 1), 1.0)
    if schedule == "linear":
        return 1.0 - done
    if schedule == "stable_decay":
        return 1.0 - math.sqrt(max(0.0, done - (1.0 - _DECAY)) / _DECAY)
    return 0.5 * (1.0 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0
