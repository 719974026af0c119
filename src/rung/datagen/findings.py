"""What a heuristic sees in a text, and how filters turn it into kept records and drops with spans."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rung.records.contracts import FilterResult
from rung.records.types import Candidate, Drop, Instruction, SftRecord, Story

__all__ = ["Filtered", "Finding", "Subject", "apply_filters", "sift", "subject_of"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that fired, and where: `span` is in characters of the text looked at."""

    rule: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Subject:
    """What heuristics may look at, whatever the record type. `response` is None where there is none yet."""

    instruction: str
    response: str | None = None
    finish_reason: str = ""
    prompt: str = ""

    @property
    def text(self) -> str:
        """The text that a finding's span refers to: the response where there is one, else the instruction."""
        return self.instruction if self.response is None else self.response


def subject_of(record: Any) -> Subject:
    """The subject of an `Instruction`, `Candidate`, `SftRecord` or `Story`.

    Raises:
        TypeError: for any other record type.
    """
    if isinstance(record, Instruction):
        return Subject(record.text)
    if isinstance(record, (Candidate, SftRecord)):
        return Subject(record.instruction, record.response, record.finish_reason, record.prompt)
    if isinstance(record, Story):
        return Subject(record.messages[-1].content if record.messages else "", record.text, record.finish_reason)
    raise TypeError(f"filters look at instructions, candidates, SFT records and stories, not {type(record).__name__}")


def sift(part: str, records: Sequence[Any], find: Callable[[Subject], Finding | None], **detail: Any) -> FilterResult:
    """Keep the records in which `find` finds nothing, in order; the others become drops of `part`."""
    kept, dropped = [], []
    for record in records:
        subject = subject_of(record)
        finding = find(subject)
        if finding is None:
            kept.append(record)
        else:
            dropped.append(Drop(record.id, subject.text, part, finding.rule, finding.span, dict(detail)))
    return FilterResult(tuple(kept), tuple(dropped))


@dataclass(frozen=True, slots=True)
class Filtered:
    """The outcome of a chain of filters.

    `decided` are the records that were dropped, each carrying its outcome, part and reason; `dropped` the drops in
    the order they were made; `flags` what an advisory filter would have dropped and did not.
    """

    kept: tuple[Any, ...]
    decided: tuple[Any, ...]
    dropped: tuple[Drop, ...]
    flags: tuple[Drop, ...]


def apply_filters(
    filters: Iterable[tuple[str, Any]], records: Sequence[Any], advisory: frozenset[str] = frozenset()
) -> Filtered:
    """Run named filters one after another over `records`; a name in `advisory` flags and drops nothing.

    Records must be of a type with `outcome`, `part` and `reason` (`Instruction`, `Candidate`).
    """
    kept: tuple[Any, ...] = tuple(records)
    decided: list[Any] = []
    dropped: list[Drop] = []
    flags: list[Drop] = []
    for name, part in filters:
        result = part.apply(kept)
        if name in advisory:
            flags += result.dropped
            continue
        by_id = {record.id: record for record in kept}
        for drop in result.dropped:
            outcome = "set_aside" if drop.detail.get("set_aside") else "dropped"
            decided.append(dataclasses.replace(by_id[drop.id], outcome=outcome, part=drop.part, reason=drop.reason))
        dropped += result.dropped
        kept = result.kept
    return Filtered(kept, tuple(decided), tuple(dropped), tuple(flags))
