"""What every verifier is: settings of a few fields, a judgement of one reply, and examples that a test sweeps.

A verifier answers one question about one reply. It sees the reply without a verbatim repetition of the instruction
at its start; an empty reply fails before any verifier looks at it. It abstains where it cannot judge, and never looks
at the reply's length unless the instruction itself states a limit (`word_limit`, `line_count`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from rung.base.errors import DataError
from rung.base.settings import Settings
from rung.records.contracts import Item, Score, Trace
from rung.scoring.reading import without_echo

__all__ = ["Verifier", "abstain", "verdict"]

S = TypeVar("S", bound=Settings)


def verdict(passed: bool, reason: str) -> Score:
    """A decided score: 1.0 or 0.0, with what was seen."""
    return Score(1.0 if passed else 0.0, reason)


def abstain(reason: str) -> Score:
    """No score, with what kept the verifier from judging."""
    return Score(None, reason, abstained=True)


class Verifier(ABC, Generic[S]):
    """Base of the parts in `scoring/verifiers`.

    `EXAMPLES` are (settings, reply, expected): True accepts, False refuses, None abstains; odd cases first.
    `INSTRUCTION` is what the examples answer, for verifiers that read the instruction.
    """

    Settings: ClassVar[type[Settings]]
    EXAMPLES: ClassVar[tuple[tuple[Mapping[str, Any], str, bool | None], ...]] = ()
    INSTRUCTION: ClassVar[str] = "Example instruction."

    def __init__(self, settings: S) -> None:
        self.settings = settings

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """One score per (item, trace) pair, in order.

        Raises:
            DataError: lists of different length, or a trace that answers another item.
        """
        if len(items) != len(traces):
            raise DataError(f"{len(items)} items but {len(traces)} traces")
        return [self._score_one(item, trace) for item, trace in zip(items, traces, strict=True)]

    def _score_one(self, item: Item, trace: Trace) -> Score:
        if item.id != trace.item_id:
            raise DataError(f"trace of item '{trace.item_id}' was given for item '{item.id}'")
        reply = without_echo(item.instruction, trace.text)
        if not reply.strip():
            return verdict(False, "empty" if not trace.text.strip() else "only repeats the instruction")
        return self.judge(item.instruction, reply)

    @abstractmethod
    def judge(self, instruction: str, reply: str) -> Score:
        """Judge one non-empty reply; `reply` no longer starts with the instruction."""
