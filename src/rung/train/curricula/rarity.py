"""Difficulty as rarity: how seldom the tokens that an example trains are trained in all examples together.

Platanios et al., 2019 (arXiv 1903.09848), sum -log p over an example, so a long one counts as hard for its length
alone. Here the mean is the usual and the sum their measure (`per_token: false`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from rung.base.settings import Field
from rung.train.curriculum import CurriculumSettings, Shown

__all__ = ["Rarity"]


class RaritySettings(CurriculumSettings):
    """Whether length counts too."""

    per_token: bool = Field(True, description="the mean over an example's tokens; false: their sum, as published")


class Rarity:
    """-log of the unigram frequencies, in nats."""

    Settings = RaritySettings
    measures: ClassVar[bool] = False
    EXAMPLES: tuple[tuple[Any, ...], ...] = (
        ({}, [[5, 5], [5, 7]], [], [math.log(4 / 3), math.log(4 / 3) / 2 + math.log(4) / 2]),
        ({"per_token": False}, [[5, 5], [5, 7]], [], [2 * math.log(4 / 3), math.log(4 / 3) + math.log(4)]),
    )

    def __init__(self, settings: RaritySettings) -> None:
        self.settings = settings

    def difficulties(self, shown: Shown) -> Sequence[float]:
        """See `rung.train.curriculum.Curriculum`."""
        counts = Counter(token for tokens in shown.trained for token in tokens)
        nats = {token: -math.log(count / counts.total()) for token, count in counts.items()}
        sums = [math.fsum(nats[token] for token in tokens) for tokens in shown.trained]
        if not self.settings.per_token:
            return sums
        return [total / len(tokens) for total, tokens in zip(sums, shown.trained, strict=True)]
