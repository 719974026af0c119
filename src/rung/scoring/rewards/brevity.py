"""More for saying it in fewer words: 1 up to a free length, falling linearly to 0 at a limit.

Meant for answers that are right, so gate it on the part that says so; alone it pays for saying nothing (an answer
without a word therefore gets 0). Unlike `length` it orders all answers, not only those near the token limit, and
counts words of the text, so that it needs no completion.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydantic

from rung.base.settings import Field, Settings
from rung.records.contracts import Item, Score, Trace
from rung.scoring.reading import words
from rung.scoring.reward import Example, Range, Reward

__all__ = ["Brevity"]


class BrevitySettings(Settings):
    """How short is short."""

    free: int = Field(default=32, ge=1, description="words up to which nothing is taken off")
    limit: int = Field(default=256, ge=2, description="words from which on nothing is left")

    @pydantic.model_validator(mode="after")
    def _free_below_limit(self) -> BrevitySettings:
        if self.free >= self.limit:
            raise ValueError(f"free ({self.free}) must be smaller than limit ({self.limit})")
        return self


class Brevity(Reward[BrevitySettings]):
    """1 for a short answer, 0 for a long one or none."""

    Settings = BrevitySettings
    EXAMPLES = (
        Example({"free": 2, "limit": 6}, "It is twelve here", 0.5),
        Example({"free": 2, "limit": 6}, "Twelve.", 1.0),
        Example({"free": 2, "limit": 6}, "one two three four five six seven", 0.0),
        Example({}, "", 0.0),
        Example({}, "...", 0.0),
    )

    @property
    def range(self) -> Range:
        """0 to 1."""
        return Range(0.0, 1.0)

    def judge(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """See the module."""
        return [self._of(len(words(trace.text))) for trace in traces]

    def _of(self, count: int) -> Score:
        own = self.settings
        left = (own.limit - count) / (own.limit - own.free) if count else 0.0
        return Score(min(1.0, max(0.0, left)), f"{count} words", {"words": float(count)})
