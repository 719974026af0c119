"""Whether a judge's trace ranks a labelled pair right: the outcome that a branch-and-rethink judge is trained by.

Right 1, flipped 0, malformed -1: published are 0, -10 and -100 (arXiv 2510.23596), but credit within a group divides by
its spread, so their distances would only let format outweigh judgement. What must hold is the order, strictly: a trace
that breaks the format in either turn earns less than a wrong verdict, or guessing without a format would pay. All
turns of a trace share this one reward. A pair whose better response nobody knows is abstained from.

It says nothing about why a verdict is right. With two possible answers a guess is right half of the time: put labels in
random order (`rung.scoring.judged_pairs`), and never train on a pair in one order only.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydantic

from rung.base.settings import Field, Settings
from rung.records.contracts import Item, Score, Trace
from rung.scoring.branch_format import read
from rung.scoring.branch_wording import Layout
from rung.scoring.reward import Example, Range, Reward

__all__ = ["Ranking"]

_FIRST = "<Focus>Logical Reasoning</Focus>\n<Issues1>the sum</Issues1>\n<Issues2>None identified</Issues2>"
_SECOND = "<Hierarchy>correctness</Hierarchy>\n<Analysis1>wrong</Analysis1>\n<Analysis2>right</Analysis2>\n"
_PASS = f"{_FIRST}\n<Ranking>\\boxed{{2}}</Ranking>"


def _shown(*turns: str, expected: float | None, better: int | None = 2) -> Example:
    return Example({}, "\n".join(turns), expected, {"better": better}, turns=turns)


class RankingSettings(Settings):
    """What each ending earns, and in which layout traces come."""

    layout: Layout = Field(default="two_turns", description="the turns and blocks of a trace")
    right: float = Field(default=1.0, ge=-1000, le=1000, description="for the better response's index")
    flipped: float = Field(default=0.0, ge=-1000, le=1000, description="for the other index")
    malformed: float = Field(default=-1.0, ge=-1000, le=1000, description="for a trace that breaks the format")

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> RankingSettings:
        if not self.malformed < self.flipped < self.right:
            raise ValueError("malformed must earn less than flipped, and flipped less than right")
        return self


class Ranking(Reward[RankingSettings]):
    """Right, flipped or malformed."""

    Settings = RankingSettings
    CONTENT = True
    EXAMPLES = (
        _shown(_FIRST, f"{_SECOND}<Ranking>\\boxed{{2}}</Ranking>", expected=1.0),
        _shown(_FIRST, f"{_SECOND}<Ranking>\\boxed{{1}}</Ranking>", expected=0.0),
        _shown(_FIRST, f"{_SECOND}<Ranking>\\boxed{{3}}</Ranking>", expected=-1.0),
        _shown(_FIRST, f"{_SECOND}<Ranking>tie</Ranking>", expected=-1.0),
        _shown(_FIRST, f"{_SECOND}<ranking>\\boxed{{2}}</ranking>", expected=-1.0),
        _shown("It is 2.", f"{_SECOND}<Ranking>\\boxed{{2}}</Ranking>", expected=-1.0),
        _shown(_FIRST, expected=-1.0),
        _shown(_FIRST, f"{_SECOND}<Ranking>\\boxed{{2}}</Ranking>", expected=None, better=None),
        Example({"layout": "one_pass"}, _PASS, 1.0, {"better": 2}),
        Example({"layout": "one_pass", "flipped": -10.0, "malformed": -100.0}, _PASS, -10.0, {"better": 1}),
    )

    @property
    def range(self) -> Range:
        """From malformed to right."""
        return Range(self.settings.malformed, self.settings.right)

    def judge(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """See the module."""
        return [self._of(item, trace) for item, trace in zip(items, traces, strict=True)]

    def _of(self, item: Item, trace: Trace) -> Score:
        better = item.reference.get("better")
        if better not in (1, 2):
            return Score(None, "abstained: the better response is not known", abstained=True)
        reading = read(trace.turns or (trace.text,), self.settings.layout)
        if reading.choice is None:
            return Score(self.settings.malformed, reading.fault)
        right = reading.choice == better
        return Score(self.settings.right if right else self.settings.flipped, f"chose {reading.choice}")
