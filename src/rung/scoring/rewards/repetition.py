"""Takes off for saying the same again: the share of n-grams that stood in the answer before.

A piece is a word (long ones are cut, so that "aaaa..." repeats too) or a single mark. Nothing is taken off up to the
tolerated share, since honest text repeats a little; from there it grows linearly to -1 for an answer that is nothing
but repetition. Text too short for two n-grams gets 0. It does not see that the same is said in other words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rung.base.settings import Field, Settings
from rung.records.contracts import Item, Score, Trace
from rung.scoring.reward import Example, Range, Reward

__all__ = ["Repetition"]

_PIECE = re.compile(r"\w{1,16}|[^\w\s]")


class RepetitionSettings(Settings):
    """What counts as saying it again."""

    size: int = Field(default=4, ge=1, le=16, description="pieces in an n-gram")
    tolerated: float = Field(default=0.1, ge=0, lt=1, description="share of repeated n-grams that costs nothing")


class Repetition(Reward[RepetitionSettings]):
    """0 for an answer that hardly repeats itself, down to -1."""

    Settings = RepetitionSettings
    EXAMPLES = (
        Example({}, "Seven apples and five more make twelve.", 0.0),
        Example({}, "", 0.0),
        Example({"size": 1, "tolerated": 0.0}, "so so so so", -0.75),
        Example({"size": 1, "tolerated": 0.5}, "so so so so", -0.5),
        Example({"size": 2, "tolerated": 0.0}, "!!!!!!", -0.8),
        Example({"size": 1, "tolerated": 0.0}, "a" * 64, -0.75),
    )

    @property
    def range(self) -> Range:
        """-1 to 0."""
        return Range(-1.0, 0.0)

    def judge(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """See the module."""
        shares = [_repeated(trace.text, self.settings.size) for trace in traces]
        over = [max(0.0, share - self.settings.tolerated) / (1 - self.settings.tolerated) for share in shares]
        return [Score(-o, f"{share:.2f} repeated", {"share": share}) for o, share in zip(over, shares, strict=True)]


def _repeated(text: str, size: int) -> float:
    pieces = _PIECE.findall(text.casefold())
    grams = [tuple(pieces[start : start + size]) for start in range(len(pieces) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
