"""What a stage writes, while it is being written.

Everything of an unfinished stage lies in `<stage>/.work`: the identity it was begun under, a journal with one entry per
finished shard, files that are not published yet, notes, checkpoints, and what this attempt has spent. A shard counts
as finished when its journal entry is there and the file hashes to it. The folder goes when the manifest is written.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import pydantic

from rung.base.errors import DataError, Drift, StorageError
from rung.base.events import Events
from rung.base.files import publish, read_json, write_bytes, write_json
from rung.base.fingerprint import content_hash, hash_file, plain
from rung.base.secrets import redact_all
from rung.base.settings import nearest
from rung.pipeline.budget import Spend
from rung.records.manifest import FILE_NAME, FileInfo
from rung.records.shards import ShardInfo, read_shard, write_shard

__all__ = ["SECTIONS", "StageOutputs", "begun", "begun_identity", "journal", "leftover_spend", "not_finite", "noted"]

WORK = ".work"
SECTIONS = ("calibration", "model", "seeds", "drops", "figures")
_SAVE_EVERY_SECONDS = 1.0


class StageOutputs:
    """The outputs of one stage (`rung.pipeline.stage.Outputs`), resumable.

    Args:
        folder: the stage's folder.
        declared: output name -> record type, as the stage class says.
        events: where a shard that has to be made again is reported.
        stage: its name, for messages.
    """

    def __init__(self, folder: Path, declared: Mapping[str, str], events: Events, stage: str) -> None:
        self._folder, self._declared, self._events, self._stage = folder, declared, events, stage
        self._work = folder / WORK
        self._whole: dict[tuple[str, int], ShardInfo] = {}
        self._written: set[tuple[str, int]] = set()
        self._roles: dict[str, str] = {}
        self._saved_at = 0.0
        self.scratch, self.workers = self._work / "scratch", self._work / "workers"
        self._notes: dict[str, Any] = {section: {} for section in SECTIONS}
        self._degraded: list[dict[str, str]] = []

    def begin(self, identity: str, attempt: int, inputs: Mapping[str, str] | None = None) -> None:
        """Make the work folder, or take up what an earlier attempt of the same identity left.

        Raises:
            Drift: that attempt read other `inputs` (input name -> hash over what was read).
        """
        _same_inputs(self._stage, begun(self._folder).get("inputs", {}), inputs or {})
        self.scratch.mkdir(parents=True, exist_ok=True)
        (self._work / "files").mkdir(exist_ok=True)
        write_json(self._work / "identity.json", {"identity": identity, "inputs": dict(inputs or {})})
        self._attempt = attempt
        notes, self._degraded = noted(self._folder)
        self._notes.update(notes)
        self._take_back_published()
        for (output, index), info in journal(self._folder).items():
            if output in self._declared:
                self._accept(output, index, info)

    def shard(self, output: str, index: int, records: Sequence[Any]) -> None:
        """Write shard `index` of `output`.

        Raises:
            DataError: no such output, wrong record type, or the shard was already written in this attempt.
            StorageError: the disk refused; no file of that name was changed.
        """
        kind, key = self._record_type(output), (output, index)
        if key in self._written:
            raise DataError(f"shard {index} of '{output}' was written twice", place=self._stage)
        before = self._whole.get(key)
        info = write_shard(self._folder, f"{output}-{index:04d}.jsonl.zst", kind, records)
        write_json(self._entry(output, index), info)
        if before is not None and before != info:
            self.degraded(f"shard {info.name}", "made again after an interruption, it came out different")
            self._events.log(f"shard {info.name} came out different when made again", level="warning")
        self._whole[key] = info
        self._written.add(key)
        self._quarantined(output, index).unlink(missing_ok=True)

    def adopt(self, output: str, index: int, info: ShardInfo, source: Path | bytes) -> None:
        """Take a shard that another process made: a file on the same file system (it is moved), or its bytes.

        Raises:
            DataError: no such output, another name or record type than the shard must have, or other bytes than `info`
                says; nothing is published then.
            StorageError: the disk refused.
        """
        kind, name = self._record_type(output), f"{output}-{index:04d}.jsonl.zst"
        found = content_hash(source) if isinstance(source, bytes) else hash_file(source)
        if (info.name, info.record_type, info.sha256) != (name, kind, found):
            raise DataError(f"shard {index} of '{output}' is not what its maker says it is", place=self._stage)
        if isinstance(source, bytes):
            write_bytes(self._folder / name, source)
        else:
            publish(source, self._folder / name)
        write_json(self._entry(output, index), info)
        self._whole[output, index] = info
        self._quarantined(output, index).unlink(missing_ok=True)

    def quarantine(self, output: str, index: int, causes: Sequence[str]) -> None:
        """Remember that shard `index` could not be made, and why; forgotten when it is made after all."""
        write_json(self._quarantined(output, index), redact_all({"output": output, "shard": index, "causes": causes}))

    def finished(self, output: str) -> list[int]:
        """Indices of whole shards of `output`, in order."""
        self._record_type(output)
        return sorted(index for name, index in self._whole if name == output)

    def info(self, output: str, index: int) -> ShardInfo:
        """Name, hashes and count of one finished shard."""
        return self._whole[output, index]

    def records(self, output: str) -> list[Any]:
        """All records of the finished shards of `output`, in index order."""
        infos = [self._whole[output, index] for index in self.finished(output)]
        return [record for info in infos for record in read_shard(self._folder, info)]

    def shard_records(self, output: str, index: int) -> list[Any]:
        """Records of one finished shard.

        Raises:
            DataError: it is not finished.
        """
        if index not in self.finished(output):
            raise DataError(f"shard {index} of '{output}' is not finished", place=self._stage)
        return list(read_shard(self._folder, self._whole[output, index]))

    def file(self, name: str, role: str) -> Path:
        """A path to write to. Made into a folder, everything in it is published, each file with this role.

        Raises:
            DataError: a name that leaves the stage's folder or belongs to the runner.
        """
        parts = PurePosixPath(name).parts
        reserved = {FILE_NAME, WORK}
        if (
            not parts
            or name.startswith("/")
            or ".." in parts
            or parts[0] in reserved
            or parts[-1].endswith(".jsonl.zst")
        ):
            raise DataError(
                f"a stage cannot write a file called '{name}'", place=self._stage, hint="a plain relative name"
            )
        path = self._work / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._roles[name] = role
        return path

    def note(self, section: str, values: Mapping[str, Any]) -> None:
        """Add to a section of the manifest; a key that is there takes the new value. Notes survive an interruption.

        Raises:
            DataError: no such section, or a value that is not a finite number.
        """
        if section not in SECTIONS:
            raise DataError(
                f"the manifest has no section '{section}'", place=self._stage, hint=nearest(section, list(SECTIONS))
            )
        noted = redact_all(plain(dict(values)))
        if bad := not_finite(noted):
            raise DataError(f"{section} '{bad}' is not a finite number", place=self._stage)
        self._notes[section].update(noted)
        self._save_notes()

    def degraded(self, what: str, how: str) -> None:
        """Remember that an optional part was gone."""
        row = {"what": what, "how": how}
        if row not in self._degraded:
            self._degraded.append(row)
            self._save_notes()

    def save_spend(self, spend: Spend, *, now: bool = False) -> None:
        """Keep what this attempt spent, at most once a second, so that a killed attempt is still paid for."""
        if now or time.monotonic() - self._saved_at >= _SAVE_EVERY_SECONDS:
            self._saved_at = time.monotonic()
            temporary = self._work / "spend.json.partial"
            # No flush to disk here: a power cut may cost a second of accounting, a flush every second costs more.
            temporary.write_text(json.dumps({"attempt": self._attempt, "spend": asdict(spend)}), encoding="utf-8")
            temporary.replace(self._work / "spend.json")

    @property
    def notes(self) -> dict[str, Any]:
        """Section -> what the stage noted."""
        return self._notes

    @property
    def degradations(self) -> list[dict[str, str]]:
        """What was gone, and how the stage went on."""
        return self._degraded

    def close(self) -> tuple[dict[str, list[ShardInfo]], list[FileInfo]]:
        """Publish the files and list everything.

        Raises:
            DataError: a shard is missing between others, or a file was announced and never written.
        """
        return {output: self._listed(output) for output in self._declared}, self._publish()

    def remove_work(self) -> None:
        """Remove what only an unfinished stage needs."""
        shutil.rmtree(self._work, ignore_errors=True)

    def _record_type(self, output: str) -> str:
        if output not in self._declared:
            raise DataError(
                f"'{self._stage}' declares no output '{output}'",
                place=self._stage,
                hint=nearest(output, list(self._declared)),
            )
        return self._declared[output]

    def _entry(self, output: str, index: int) -> Path:
        return self._work / "journal" / output / f"{index:04d}.json"

    def _quarantined(self, output: str, index: int) -> Path:
        return self._work / "quarantine" / f"{output}-{index:04d}.json"

    def _accept(self, output: str, index: int, info: ShardInfo | None) -> None:
        path = self._folder / f"{output}-{index:04d}.jsonl.zst"
        if info is not None and path.is_file() and hash_file(path) == info.sha256:
            self._whole[output, index] = info
            return
        self._events.log(
            f"shard {index} of '{output}' does not hash to what was recorded; it is made again",
            level="warning",
            shard=path.name,
        )
        self._entry(output, index).unlink()

    def _listed(self, output: str) -> list[ShardInfo]:
        indices = self.finished(output)
        missing = sorted(set(range(len(indices))) - set(indices))
        if missing:
            raise DataError(
                f"output '{output}' has the shards {indices} and lacks {missing[0]}",
                place=self._stage,
                hint="shards are numbered from 0 without a gap",
            )
        return [self._whole[output, index] for index in indices]

    def _publish(self) -> list[FileInfo]:
        staged: list[tuple[str, str]] = []
        for name, role in self._roles.items():
            path = self._work / "files" / name
            if not path.exists():
                raise DataError(f"the file '{name}' was announced and never written", place=self._stage)
            inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            staged += [(p.relative_to(self._work / "files").as_posix(), role) for p in inside]
        write_json(self._work / "publishing.json", [name for name, _ in staged])
        infos = []
        for name, role in staged:
            final = self._folder / name
            try:
                final.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"cannot write {name}: {error.strerror}", place=self._stage) from error
            publish(self._work / "files" / name, final)
            infos.append(FileInfo(name=name, sha256=hash_file(final), role=role))
        return infos

    def _take_back_published(self) -> None:
        """A kill between publishing files and writing the manifest: the files go back to where they were staged."""
        listed = self._work / "publishing.json"
        if not listed.is_file():
            return
        for name in read_json(listed):
            if (self._folder / name).is_file():
                back = self._work / "files" / name
                back.parent.mkdir(parents=True, exist_ok=True)
                (self._folder / name).replace(back)
        listed.unlink()

    def _save_notes(self) -> None:
        write_json(self._work / "notes.json", {"notes": self._notes, "degraded": self._degraded})


def not_finite(value: Any, path: str = "") -> str:
    """Dotted path of the first number in a plain value that is not finite (JSON has no word for it); empty if none."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if found := not_finite(item, f"{path}.{key}" if path else str(key)):
            return found
    return path if isinstance(value, float) and not math.isfinite(value) else ""


def begun(folder: Path) -> dict[str, Any]:
    """Identity and inputs under which unfinished work in a stage's folder was begun; empty when there is none."""
    path = folder / WORK / "identity.json"
    return dict(read_json(path)) if path.is_file() else {}


def begun_identity(folder: Path) -> str:
    """The identity under which unfinished work in a stage's folder was begun; empty when there is none."""
    return str(begun(folder).get("identity", ""))


def noted(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Notes by section, and degradations, of unfinished work in a stage's folder."""
    path = folder / WORK / "notes.json"
    stored = read_json(path) if path.is_file() else {"notes": {}, "degraded": []}
    return stored["notes"], stored["degraded"]


def journal(folder: Path) -> dict[tuple[str, int], ShardInfo | None]:
    """Finished shards of unfinished work in a stage's folder, oldest first; None for an entry that cannot be read."""
    found: dict[tuple[str, int], ShardInfo | None] = {}
    paths = sorted((folder / WORK / "journal").glob("*/*.json"), key=lambda path: (path.stat().st_mtime_ns, path))
    for path in paths:
        key = (path.parent.name, int(path.stem))
        try:
            found[key] = ShardInfo.model_validate(read_json(path))
        except (json.JSONDecodeError, pydantic.ValidationError):
            found[key] = None
    return found


def _same_inputs(stage: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    other = [name for name in now if name in before and before[name] != now[name]]
    if other:
        raise Drift(
            f"its unfinished work was made from other records than its inputs hold now: {', '.join(other)}",
            place=stage,
            hint=f"make it again: --rebuild {stage}",
        )


def leftover_spend(folder: Path) -> tuple[int, Spend]:
    """Attempt and spend that a killed process left in a stage's folder; attempt 0 when there is none."""
    path = folder / WORK / "spend.json"
    if not path.is_file():
        return 0, Spend()
    values = read_json(path)
    return int(values["attempt"]), Spend(**values["spend"])
