"""Soft punishment of answers that come near the token limit (overlong shaping, DAPO, arXiv 2503.14476).

For an answer of n tokens, a limit L and a buffer b: 0 up to L - b, then falling linearly to -penalty at L, and never
lower. It says nothing among answers that stay clear of the limit. Filter groups by accuracy and not by a sum that
holds this part: it makes every group look mixed.

Tokens are those that the model drew; an answer without a completion makes it abstain.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydantic

from rung.base.settings import Field, Settings
from rung.records.contracts import Item, Score, Trace
from rung.scoring.reward import Example, Range, Reward

__all__ = ["Length"]


class LengthSettings(Settings):
    """Where the punishment begins and ends."""

    limit: int = Field(default=512, ge=2, description="tokens at which the whole penalty is reached")
    buffer: int = Field(default=128, ge=1, description="tokens before the limit over which it grows")
    penalty: float = Field(default=1.0, gt=0, le=100, description="what is taken off at the limit")

    @pydantic.model_validator(mode="after")
    def _buffer_inside(self) -> LengthSettings:
        if self.buffer >= self.limit:
            raise ValueError(f"buffer ({self.buffer}) must be smaller than limit ({self.limit})")
        return self


class Length(Reward[LengthSettings]):
    """0 for an answer clear of the limit, down to -penalty at it."""

    Settings = LengthSettings
    NEEDS = ("tokens",)
    EXAMPLES = (
        Example({"limit": 100, "buffer": 40}, "short", 0.0, num_tokens=5),
        Example({"limit": 100, "buffer": 40}, "at the buffer", 0.0, num_tokens=60),
        Example({"limit": 100, "buffer": 40}, "half way", -0.5, num_tokens=80),
        Example({"limit": 100, "buffer": 40}, "at the limit", -1.0, num_tokens=100),
        Example({"limit": 100, "buffer": 40, "penalty": 0.5}, "far over it", -0.5, num_tokens=5000),
        Example({}, "nobody counted this", None),
    )

    @property
    def range(self) -> Range:
        """-penalty to 0."""
        return Range(-self.settings.penalty, 0.0)

    def judge(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """See the module."""
        return [self._of(trace) for trace in traces]

    def _of(self, trace: Trace) -> Score:
        if trace.completion is None:
            return Score(None, "the answer's tokens were not counted", abstained=True)
        count, own = len(trace.completion.token_ids), self.settings
        over = min(max(count - (own.limit - own.buffer), 0), own.buffer)
        return Score(-over / own.buffer * own.penalty, f"{count} tokens", {"tokens": float(count)})
