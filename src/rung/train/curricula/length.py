"""Difficulty as length: the number of tokens that an example trains (Platanios et al., 2019, arXiv 1903.09848)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rung.train.curriculum import CurriculumSettings, Shown

__all__ = ["Length"]


class LengthSettings(CurriculumSettings):
    """Nothing of its own."""


class Length:
    """Longer is harder."""

    Settings = LengthSettings
    measures: ClassVar[bool] = False
    EXAMPLES: tuple[tuple[Any, ...], ...] = (({}, [[5, 5, 5], [7], [7, 8]], [], [3, 1, 2]),)

    def __init__(self, settings: LengthSettings) -> None:
        self.settings = settings

    def difficulties(self, shown: Shown) -> Sequence[float]:
        """See `rung.train.curriculum.Curriculum`."""
        return [float(len(tokens)) for tokens in shown.trained]
