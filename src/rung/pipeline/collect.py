"""Shards of one stage that were made on several machines, brought together in one run's folder.

Only what is whole and was made from the same things is taken: the same identity, the same records read, the same model
and calibration noted, and files that hash to what their maker recorded. What the other machine spent comes along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rung.base.errors import DataError, Drift
from rung.base.events import Events
from rung.base.files import read_json, write_json
from rung.base.fingerprint import content_hash, differing
from rung.pipeline.budget import Spend
from rung.pipeline.job import spent_in
from rung.pipeline.ledger import Entry, Ledger
from rung.pipeline.lock import locked
from rung.pipeline.outputs import WORK, StageOutputs, begun, begun_identity, journal, leftover_spend, noted
from rung.records.manifest import FILE_NAME
from rung.records.shards import ShardInfo

__all__ = ["Collected", "collect"]

_AGREED = ("model", "calibration")


@dataclass(frozen=True, slots=True)
class Collected:
    """What one folder gave: files taken, files that were here already, and what they had cost there."""

    source: Path
    num_taken: int
    num_there: int
    spend: Spend


def collect(run_folder: Path, stage: str, sources: Sequence[Path]) -> list[Collected]:
    """Take over finished shards of `stage` from other machines' run folders, or their stage folders.

    A run that goes on afterwards makes what is still missing and closes the stage.

    Raises:
        DataError: there is nothing to take, the stage is finished here, or a file is not what was recorded.
        Drift: it was made from other settings, inputs or another model.
        Busy: a run works on this folder.
    """
    with locked(run_folder):
        return [_from(run_folder / stage, stage, source) for source in sources]


def _from(ours: Path, stage: str, source: Path) -> Collected:
    theirs = source if (source / WORK).is_dir() else source / stage
    identity, shards = begun_identity(theirs), journal(theirs)
    if (ours / FILE_NAME).is_file():
        raise DataError("the stage is finished here", place=str(ours), hint="there is nothing to collect")
    if not identity or not shards:
        raise DataError(
            f"no unfinished work of '{stage}' lies here",
            place=str(source),
            hint="rung run --shards STAGE=0-4 leaves it",
        )
    _require_same(ours, theirs, stage)
    infos = {key: _whole(theirs, key, info) for key, info in shards.items()}
    outputs = StageOutputs(ours, {name: info.record_type for (name, _), info in infos.items()}, Events(), stage)
    outputs.begin(identity, 0, begun(theirs).get("inputs", {}))
    taken = [key for key in infos if key[1] not in outputs.finished(key[0])]
    _require_equal(outputs, infos, stage)
    _take_notes(outputs, theirs)
    for output, index in taken:
        info = infos[output, index]
        outputs.adopt(output, index, info, (theirs / info.name).read_bytes())
    return Collected(source, len(taken), len(infos) - len(taken), _take_spend(ours, theirs, stage, identity))


def _require_same(ours: Path, theirs: Path, stage: str) -> None:
    here, there = begun(ours), begun(theirs)
    if not here:
        return
    rows = differing(here.get("inputs", {}), there.get("inputs", {}), "inputs")
    if here["identity"] != there["identity"]:
        rows.append("identity: it was begun with other settings, seed, inputs or another model")
    (notes_here, _), (notes_there, _) = noted(ours), noted(theirs)
    for section in _AGREED:
        if notes_here.get(section) and notes_there.get(section):
            rows += differing(notes_here[section], notes_there[section], section)
    if rows:
        raise Drift(
            f"the two were not made from the same things: {'; '.join(rows[:5])}",
            place=f"{stage}: {theirs}",
            hint="the same recipe, the same inputs and the same kind of machine on both sides",
        )


def _whole(folder: Path, key: tuple[str, int], info: ShardInfo | None) -> ShardInfo:
    output, index = key
    if info is None or info.name != f"{output}-{index:04d}.jsonl.zst" or not (folder / info.name).is_file():
        raise DataError(
            f"shard {index} of '{output}' is broken there", place=str(folder), hint="run that machine again"
        )
    return info


def _require_equal(outputs: StageOutputs, infos: dict[tuple[str, int], ShardInfo], stage: str) -> None:
    for (output, index), info in infos.items():
        if index in outputs.finished(output) and outputs.info(output, index).sha256 != info.sha256:
            raise DataError(f"shard {index} of '{output}' was made here too, and came out different", place=stage)


def _take_notes(outputs: StageOutputs, theirs: Path) -> None:
    notes, degraded = noted(theirs)
    for section, values in notes.items():
        new = {key: value for key, value in values.items() if key not in outputs.notes[section]}
        if new:
            outputs.note(section, new)
    for row in degraded:
        outputs.degraded(**row)


def _take_spend(ours: Path, theirs: Path, stage: str, identity: str) -> Spend:
    """Enter what it cost there into our ledger; a second collection enters what has come since."""
    known, ledger = ours / WORK / "collected.json", Ledger(theirs.parent)
    fingerprint = content_hash(identity.encode())
    attempts = [entry for entry in ledger.entries() if (entry.stage, entry.fingerprint) == (stage, fingerprint)]
    if not attempts:
        return Spend()
    attempt, open_spend = leftover_spend(theirs)
    closed = any(entry.event == "ended" and entry.attempt == attempt for entry in attempts)
    spend = ledger.spent(stage, fingerprint) + (Spend() if closed else open_spend)
    before: dict[str, Any] = read_json(known) if known.is_file() else {}
    source = content_hash(attempts[0])
    new = spend - spent_in(before.get(source, {}))
    own = Ledger(ours.parent)
    own.append(
        Entry(
            event="ended",
            stage=stage,
            attempt=own.next_attempt(),
            fingerprint=fingerprint,
            outcome="collected",
            spend=asdict(new),
        )
    )
    write_json(known, {**before, source: spend})
    return new
