"""What every reward is: settings, a stated range, what it needs, and a judgement of one answer.

A reward is a `Scorer` whose values never leave the range it states. It abstains where it cannot judge (a failed judge,
an answer whose tokens nobody counted), and an abstention is never a low value. A value that is no number or lies
outside the range is a defect of the reward: it ends the run by name rather than train a model.

`CONTENT` says whether a reward is about what an answer says. Those must not rise with stuffing, copies or length
(`rung.scoring.hacking`); rewards of shape (tags, length, repetition) move with shape and have to be weighted below
the gap between a right and a wrong answer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from rung.base.errors import DataError, SettingsError
from rung.base.settings import Settings
from rung.records.contracts import Completer, Completion, Item, Score, Scorer, Trace
from rung.records.tokenizer import Tokenizer

__all__ = ["Example", "Lent", "Need", "Range", "Reader", "Reward", "checked", "example_trace"]

Need = Literal["reference", "tokens", "completer", "reader"]
S = TypeVar("S", bound=Settings)
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Range:
    """The least and the most a reward can be, both reachable in principle and both finite."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """High less low."""
        return self.high - self.low

    def holds(self, value: float) -> bool:
        """Whether a number lies inside, up to rounding."""
        slack = _ROUNDING * max(1.0, self.width)
        return math.isfinite(value) and self.low - slack <= value <= self.high + slack


class Reader(Protocol):
    """A trained reward model, as far as a reward sees it.

    `attributes` are what it reads, in order, with the weight of each where nobody names one. `levels` are those of an
    attribute's values, none where it has one value alone.
    """

    levels: tuple[float, ...]

    @property
    def attributes(self) -> Mapping[str, float]:
        """Names and usual weights."""

    def read(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[tuple[tuple[float, ...], ...] | None]:
        """Per answer the values (0 to 1) of each attribute, in order and rising with the level; None: not readable."""


@dataclass(frozen=True, slots=True)
class Lent:
    """What the caller lends to rewards that need more than the text: a model to judge with, scorers of its own. The
    model's tokenizer is for judges that hold a conversation with it; `readers` are trained reward models by name."""

    completer: Completer | None = None
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    readers: Mapping[str, Reader] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Example:
    """A case that the folder's test sweeps: `expected` is the value, None an abstention.

    `num_tokens` is the length that the completion states, None where the answer comes without one. `turns` are the
    parts of an answer that was given in several.
    """

    settings: Mapping[str, Any]
    reply: str
    expected: float | None
    reference: Mapping[str, Any] = field(default_factory=dict)
    num_tokens: int | None = None
    turns: tuple[str, ...] = ()


class Reward(ABC, Generic[S]):
    """Base of the parts in `scoring/rewards`. `INSTRUCTION` is what the examples answer."""

    Settings: ClassVar[type[Settings]]
    NEEDS: ClassVar[tuple[Need, ...]] = ()
    CONTENT: ClassVar[bool] = False
    EXAMPLES: ClassVar[tuple[Example, ...]] = ()
    INSTRUCTION: ClassVar[str] = "What is 7 + 5?"

    def __init__(self, settings: S, lent: Lent | None = None) -> None:
        """Keep the settings and what is lent.

        Raises:
            SettingsError: the reward needs a model and none is lent.
        """
        self.settings, self.lent = settings, lent or Lent()
        if "completer" in self.NEEDS and self.lent.completer is None:
            raise SettingsError(
                f"the reward '{type(self).__name__}' needs a model to judge with and none was lent",
                hint="give the stage a judge model, or take the reward out",
            )

    @property
    @abstractmethod
    def range(self) -> Range:
        """Where the values lie, under these settings."""

    @abstractmethod
    def judge(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """Judge all pairs, whose ids were checked."""

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """One score per (item, trace) pair, in order.

        Raises:
            DataError: lists of different length, a trace that answers another item, or a value that is no number or
                outside the stated range.
        """
        if len(items) != len(traces):
            raise DataError(f"{len(items)} items but {len(traces)} traces")
        for item, trace in zip(items, traces, strict=True):
            if item.id != trace.item_id:
                raise DataError(f"trace of item '{trace.item_id}' was given for item '{item.id}'")
        name = type(self).__module__.rpartition(".")[2]
        return [
            checked(score, self.range, name, i.id) for i, score in zip(items, self.judge(items, traces), strict=True)
        ]


def checked(score: Score, limits: Range, part: str, item: str) -> Score:
    """The score, if it is an abstention without a value or a number inside the range.

    Raises:
        DataError: it is neither; named by part and item.
    """
    if score.abstained:
        return score
    if score.value is None or not limits.holds(score.value):
        raise DataError(
            f"the reward '{part}' gave {score.value} to an answer of '{item}', its range is {limits.low} to "
            f"{limits.high}",
            place=f"rewards.{part}",
            hint="a reward that cannot judge must abstain",
        )
    return score


def example_trace(example: Example, item: str) -> Trace:
    """The answer of an example, with a completion of the stated length where there is one."""
    if example.num_tokens is None:
        return Trace(item, example.reply, turns=example.turns)
    ids = tuple(range(example.num_tokens))
    return Trace(item, example.reply, Completion(item, example.reply, example.reply, ids, "eos", 0))
