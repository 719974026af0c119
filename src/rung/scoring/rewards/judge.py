"""What a judge of `scoring/judges` says, brought into 0 to 1.

A judge ranks by a margin in nats without bounds; 1 / (1 + exp(-margin / scale)) keeps its order and its middle (0.5:
undecided). A judge that abstains makes this abstain: about a quarter of one benchmark's scores were once failed
judge calls counted as zero. A judge is about content and is easier to please than a verifier: probe it
(`rung.scoring.hacking`) and watch it against a hidden verifier (`rung.scoring.hidden`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rung.base.lookup import part
from rung.base.settings import Field, Settings
from rung.records.contracts import Item, Score, Scorer, Trace
from rung.scoring.reward import Example, Lent, Range, Reward

__all__ = ["Judge"]

_LARGEST = 500.0  # beyond this exp overflows and the logistic is 0 or 1 anyway


class JudgeSettings(Settings):
    """Who judges, and how its margin is read."""

    judge: Mapping[str, Any] = Field(
        default={"kind": "choice"}, description="a judge `{kind: name, ...settings}` of scoring/judges"
    )
    scale: float = Field(default=1.0, gt=0, description="nats of margin that move the odds by a factor e")


class Judge(Reward[JudgeSettings]):
    """The odds that a judge gives the answer, as a share."""

    Settings = JudgeSettings
    NEEDS = ("completer",)
    CONTENT = True
    EXAMPLES = (
        Example({}, "12", 0.5),
        Example({"judge": {"kind": "choice", "allow_unclean_model": True}, "scale": 2.0}, "13", 0.5),
    )

    def __init__(self, settings: JudgeSettings, lent: Lent | None = None) -> None:
        """Build the judge on the lent model.

        Raises:
            SettingsError: no model is lent, or a judge or setting that does not exist.
            ModelError: the model may not judge.
        """
        super().__init__(settings, lent)
        kind, own = part("scoring.judges", dict(settings.judge), "judge.judge")
        takes_tokenizer = getattr(kind, "TAKES_TOKENIZER", False)
        more = (self.lent.tokenizer,) if takes_tokenizer else ()
        self._judge: Scorer = kind(own, self.lent.completer, *more)

    @property
    def range(self) -> Range:
        """0 to 1."""
        return Range(0.0, 1.0)

    def judge(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """See the module."""
        return [self._of(score) for score in self._judge.score(items, traces)]

    def _of(self, score: Score) -> Score:
        if score.abstained or score.value is None:
            return Score(None, score.reason, score.components, abstained=True)
        if math.isnan(score.value):
            return Score(math.nan, score.reason, score.components)
        nats = min(_LARGEST, max(-_LARGEST, score.value / self.settings.scale))
        return Score(1 / (1 + math.exp(-nats)), score.reason, score.components)
