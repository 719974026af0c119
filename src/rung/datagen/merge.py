"""Shards: how many each is to make, how they become one data set, and which one spoils it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.base.errors import SettingsError
from rung.datagen.qc import QcVerdict, Thresholds, decide, figures
from rung.datagen.wording import fold
from rung.records.types import Candidate, Drop, Instruction, SftRecord

__all__ = ["Merged", "Shard", "blame", "merge", "shard_sizes"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Everything one shard stored."""

    name: str
    instructions: tuple[Instruction, ...]
    candidates: tuple[Candidate, ...]
    records: tuple[SftRecord, ...]


@dataclass(frozen=True, slots=True)
class Merged:
    """The union, shard after shard in the given order; `counts` per shard: records, repeats, kept."""

    instructions: tuple[Instruction, ...]
    candidates: tuple[Candidate, ...]
    records: tuple[SftRecord, ...]
    dropped: tuple[Drop, ...]
    counts: Mapping[str, Mapping[str, int]]


def shard_sizes(count: int, num_shards: int) -> list[int]:
    """Targets that add up to `count`, differing by one at most, the larger ones first.

    Raises:
        SettingsError: no shards, or more shards than records.
    """
    if num_shards < 1 or count < num_shards:
        raise SettingsError(f"{count} records cannot be made in {num_shards} shards", hint="use fewer shards")
    each, more = divmod(count, num_shards)
    return [each + (number < more) for number in range(num_shards)]


def merge(shards: Sequence[Shard]) -> Merged:
    """Join shards; of records whose instructions fold to the same text the first stays.

    The candidate of a repeat is marked "dropped" by "merge", so that figures of the union count it once.
    """
    seen: dict[str, str] = {}
    candidates: list[Candidate] = []
    records: list[SftRecord] = []
    dropped: list[Drop] = []
    counts: dict[str, dict[str, int]] = {}
    for number, shard in enumerate(shards):
        stay: Counter[tuple[str, str]] = Counter()
        for record in shard.records:
            folded, key = fold(record.instruction), (record.instruction, record.prompt)
            if folded not in seen:
                seen[folded] = shard.name
                stay[key] += 1
                records.append(record)
            else:
                detail = {"shard": shard.name, "first_in": seen[folded]}
                span = (0, len(record.instruction))
                dropped.append(Drop(record.id, record.instruction, "merge", "repeat", span, detail))
        total, kept = len(shard.records), stay.total()
        counts[shard.name] = {"records": total, "repeats": total - kept, "kept": kept}
        candidates += _placed(shard.candidates, number, stay)
    instructions = tuple(item for shard in shards for item in shard.instructions)
    return Merged(instructions, tuple(candidates), tuple(records), tuple(dropped), counts)


def _placed(candidates: Sequence[Candidate], shard: int, stay: Counter[tuple[str, str]]) -> list[Candidate]:
    """The candidates with their shard's number; a kept one beyond what stays of its record becomes a repeat."""
    placed = []
    for candidate in candidates:
        key = (candidate.instruction, candidate.prompt)
        changes: dict[str, Any] = {}
        if candidate.outcome == "kept":
            if not stay[key]:
                changes = {"outcome": "dropped", "part": "merge", "reason": "repeat"}
            stay[key] -= bool(stay[key])
        placed.append(dataclasses.replace(candidate, shard=shard, **changes))
    return placed


def blame(merged: QcVerdict, shards: Sequence[Shard], thresholds: Thresholds) -> dict[str, list[str]]:
    """For each threshold that the union misses, the shards that miss it on their own; where none does, the shards
    without which the union would meet it. A shard too small to be judged alone is still looked at."""
    alone = thresholds.model_copy(update={"min_kept": 1})
    verdicts = {s.name: decide(figures(s.instructions, s.candidates, s.records, alone), alone) for s in shards}
    blamed: dict[str, list[str]] = {}
    for failure in merged.failed:
        missing = [name for name, verdict in verdicts.items() if failure.threshold in _missed(verdict)]
        blamed[failure.threshold] = missing or _pivotal(failure.threshold, shards, alone)
    return blamed


def _missed(verdict: QcVerdict) -> set[str]:
    return {failure.threshold for failure in verdict.failed}


def _pivotal(threshold: str, shards: Sequence[Shard], limits: Thresholds) -> list[str]:
    pivotal = []
    for shard in shards:
        rest = merge([other for other in shards if other.name != shard.name])
        verdict = decide(figures(rest.instructions, rest.candidates, rest.records, limits), limits)
        if threshold not in _missed(verdict):
            pivotal.append(shard.name)
    return pivotal
