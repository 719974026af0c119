"""Sound single steps and a coherent whole (two levels, arXiv 2503.13551), the end weighing more than all the steps.

    R = w S + (1 - w) E        E = o (1 - p (1 - C))        w < (1 - w)(1 - p)

S (soundness) is the mean over checkable steps of whether they hold, o the outcome (a verifier's 1 or 0), and C
(coherence) the mean of: the share of steps that start from a number of the question or of an earlier step, and whether
the last line states the last result. The condition on w and p is checked, so that the best steps to a wrong end score
below the clumsiest path to a right one. With `count_steps: right_end` S is replaced by o S: process is paid only where
the outcome is right (as in arXiv 2508.05170), which leaves nothing to gain by steps alone.

Without a model, steps are the equations that can be worked out (`rung.scoring.equations`). A later equation with the
same left side replaces an earlier one (a corrected slip is no slip), a repeated one counts once, and one that works
nothing out (7 + 0 = 7) not at all. Means, never products or sums: neither short nor long answers gain by their length.
An answer that shows no checkable step has S = C = 0 and loses only what steps could have added. `lent.scorers` may hold
`steps` (asked about each line with what came before it) and `coherence` (asked about the whole); their values lie in
0 to 1 and an abstention leaves the step out. Where the outcome abstains, so does this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pydantic

from rung.base.settings import Field, Settings
from rung.records.contracts import Item, Score, Trace
from rung.scoring.equations import Equation, equations_in
from rung.scoring.reading import numbers_in, sentences
from rung.scoring.reward import Example, Lent, Range, Reward, checked
from rung.scoring.rewards.verified import Verified

__all__ = ["Steps"]

_TAG = re.compile(r"</?\w+>")
_REFERENCE = {"checks": {"number": {"value": 14}}}
_UNIT = Range(0.0, 1.0)


class StepsSettings(Settings):
    """How steps and end are weighed."""

    step_weight: float = Field(default=0.3, gt=0, lt=0.5, description="w: weight of the steps' soundness")
    incoherence: float = Field(default=0.25, ge=0, lt=1, description="p: share of the end lost without coherence")
    count_steps: Literal["right_end", "always"] = Field(
        default="right_end", description="whether sound steps to a wrong end earn anything"
    )
    verifier: Mapping[str, Any] | None = Field(
        default=None, description="a verifier `{kind: name, ...settings}` of the end; none: the item's own checks"
    )
    inside: str = Field(default="", pattern=r"^\w*$", description="tag in which the end stands; empty: no tag")

    @pydantic.model_validator(mode="after")
    def _end_outweighs_steps(self) -> StepsSettings:
        least_right = (1 - self.step_weight) * (1 - self.incoherence)
        if least_right <= self.step_weight:
            raise ValueError(f"a right end earns at least {least_right:.3f}: step_weight must be below that")
        return self


@dataclass(frozen=True, slots=True)
class _Shown:
    """What an answer shows of its way: soundness, coherence, and how many steps could be judged."""

    soundness: float
    coherence: float
    num_steps: int


class Steps(Reward[StepsSettings]):
    """Soundness of single steps and coherence of the whole, combined by the formula of the module."""

    Settings = StepsSettings
    NEEDS = ("reference",)
    CONTENT = True
    INSTRUCTION = "Ann has 3 bags of 4 nuts and 2 more nuts. How many nuts does she have?"
    EXAMPLES = (
        Example({}, "3 * 4 = 12\n12 + 2 = 14\nThe answer is 14.", 1.0, _REFERENCE),
        Example({}, "3 * 4 = 13. Wait, 3 * 4 = 12. So 12 + 2 = 14. The answer is 14.", 1.0, _REFERENCE),
        Example({}, "3 * 4 = 12\n12 + 2 = 15\nThe answer is 14.", 0.15 + 0.7 * 0.875, _REFERENCE),
        Example({}, "The answer is 14.", 0.7 * 0.75, _REFERENCE),
        Example({}, "3 * 4 = 12\n12 + 2 = 14\nThe answer is 15.", 0.0, _REFERENCE),
        Example({"count_steps": "always"}, "3 * 4 = 12\n12 + 3 = 15\nThe answer is 15.", 0.3, _REFERENCE),
        Example({}, "14 + 0 = 14\n9 = 9\nThe answer is 14.", 0.7 * 0.75, _REFERENCE),
        Example({"inside": "answer"}, "3 * 4 = 12\n12 + 2 = 14\n<answer>14</answer>", 1.0, _REFERENCE),
        Example({"verifier": {"kind": "language", "code": "fr"}}, "Bonjour", None),
    )

    def __init__(self, settings: StepsSettings, lent: Lent | None = None) -> None:
        """Build the verifier of the end.

        Raises:
            SettingsError: a verifier or setting that does not exist.
        """
        super().__init__(settings, lent)
        self._end = Verified(Verified.Settings(verifier=settings.verifier, inside=settings.inside))

    @property
    def range(self) -> Range:
        """0 to 1."""
        return _UNIT

    def judge(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """See the module."""
        outcomes = self._end.score(items, traces)
        return [self._of(item, trace, end) for item, trace, end in zip(items, traces, outcomes, strict=True)]

    def _of(self, item: Item, trace: Trace, end: Score) -> Score:
        if end.value is None:
            return Score(None, f"the end was not judged: {end.reason}", abstained=True)
        lines = _lines(trace.text)
        shown = _by_equations(item.instruction, lines)
        soundness, num_steps = self._lent_steps(item, lines) or (shown.soundness, shown.num_steps)
        coherence = self._lent_coherence(item, trace, shown.coherence)
        weight, lost = self.settings.step_weight, self.settings.incoherence * (1 - coherence)
        paid = soundness if self.settings.count_steps == "always" else soundness * end.value
        parts = {"soundness": soundness, "coherence": coherence, "outcome": end.value, "num_steps": float(num_steps)}
        return Score(weight * paid + (1 - weight) * end.value * (1 - lost), end.reason, parts)

    def _lent_steps(self, item: Item, lines: Sequence[str]) -> tuple[float, int] | None:
        """Mean soundness and number of steps by the lent scorer, None where there is none or it judged none."""
        scorer = self.lent.scorers.get("steps")
        if scorer is None or not lines:
            return None
        asked = [Item(item.id, "\n".join([item.instruction, *lines[:n]]), item.type) for n in range(len(lines))]
        scores = scorer.score(asked, [Trace(item.id, line) for line in lines])
        values = [v for s in scores if (v := checked(s, _UNIT, "steps.steps", item.id).value) is not None]
        return (sum(values) / len(values), len(values)) if values else None

    def _lent_coherence(self, item: Item, trace: Trace, otherwise: float) -> float:
        scorer = self.lent.scorers.get("coherence")
        if scorer is None:
            return otherwise
        value = checked(scorer.score([item], [trace])[0], _UNIT, "steps.coherence", item.id).value
        return otherwise if value is None else value


def _lines(text: str) -> list[str]:
    """The steps: lines, or the sentences of a text that is one line."""
    lines = [line.strip() for line in _TAG.sub("\n", text).splitlines() if line.strip()]
    return sentences(text, keep_marks=True) if len(lines) == 1 else lines


def _by_equations(instruction: str, lines: Sequence[str]) -> _Shown:
    """What can be worked out; all 0 where nothing can."""
    steps: dict[str, Equation] = {}
    for equation in (equation for line in lines for equation in equations_in(line) if not equation.idle):
        steps.pop(equation.left, None)
        steps[equation.left] = equation
    if not steps:
        return _Shown(0.0, 0.0, 0)
    known, connected = set(numbers_in(instruction)), 0
    for equation in steps.values():
        connected += any(float(number) in known for number in equation.operands)
        known.add(float(equation.result))
    states = float(list(steps.values())[-1].result) in numbers_in(lines[-1])
    sound = sum(equation.holds for equation in steps.values())
    return _Shown(sound / len(steps), (connected / len(steps) + states) / 2, len(steps))
