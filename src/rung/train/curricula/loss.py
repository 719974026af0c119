"""Difficulty as loss: what the network finds hard before any training, measured once.

Nats per trained token of a text; of a preference pair the preferred answer's less the other's, so that a pair which
the network ranks right already is easy. A reward model's head knows nothing before training: there is no loss to go by.
Cf. Hacohen and Weinshall, 2019, ICML, arXiv 1904.03626, who let a trained network grade for one that learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rung.train.curriculum import CurriculumSettings, Shown

__all__ = ["Loss"]


class LossSettings(CurriculumSettings):
    """Nothing of its own."""


class Loss:
    """What is less expected is harder."""

    Settings = LossSettings
    measures: ClassVar[bool] = True
    EXAMPLES: tuple[tuple[Any, ...], ...] = (({}, [[5], [6]], [2.5, 0.5], [2.5, 0.5]),)

    def __init__(self, settings: LossSettings) -> None:
        self.settings = settings

    def difficulties(self, shown: Shown) -> Sequence[float]:
        """See `rung.train.curriculum.Curriculum`."""
        return list(shown.losses())
