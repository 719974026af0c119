"""Migrating a run: every finished stage to the present schema version, parents first, the old output kept.

A stage is written anew beside the old one and takes its place by a rename, so a kill at any moment leaves either. Its
readers' notes of what they read are brought along, and the ledger seals the new manifest; an output that no longer
agrees with its seal is refused, so that migrating launders nothing.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.base.errors import DataError
from rung.base.files import write_json
from rung.base.fingerprint import content_hash
from rung.pipeline.ledger import Entry, Ledger, seal_of
from rung.pipeline.lock import locked
from rung.records.manifest import FILE_NAME, SCHEMA_VERSION, open_manifest
from rung.records.migrating import migrate_output, migrated_values, plain_content, raw_manifest, steps_from

__all__ = ["BACKUPS", "Migrated", "migrate", "run_folder"]

BACKUPS = ".before-migration"
_NEW = ".migrating"


@dataclass(frozen=True, slots=True)
class Migrated:
    """A stage and its schema version before; `only_inputs`: at the present version, but its inputs were rewritten."""

    name: str
    before: int
    only_inputs: bool = False


@dataclass(frozen=True, slots=True)
class _Old:
    """A stage as it stands."""

    folder: Path
    values: dict[str, Any]
    version: int

    @property
    def content(self) -> str:
        """Hash over what its readers see."""
        return plain_content(self.values)


def run_folder(path: Path) -> Path:
    """The run that `path` is, or that the stage at `path` belongs to.

    Raises:
        DataError: there is nothing finished there.
    """
    if (path / FILE_NAME).is_file():
        return path.resolve().parent
    if any(path.glob(f"*/{FILE_NAME}")) or (path / _NEW).is_dir():
        return path
    raise DataError("there is no finished output here", place=str(path), hint="rung migrate runs/RUN")


def migrate(folder: Path, *, dry_run: bool = False) -> list[Migrated]:
    """Bring a run to the present schema version; with `dry_run` only say what would be done.

    Raises:
        DataError: a version newer than this rung's, or an output that is damaged or was edited; nothing of it changes.
        Busy: the run is being worked on.
    """
    with locked(folder) if not dry_run else contextlib.nullcontext():
        if not dry_run:
            _finish_interrupted(folder)
        rows, rewritten = [], dict[str, str]()
        for old in _in_order(folder):
            steps_from(old.version, str(old.folder))
            inputs = _inputs_content(old, folder, rewritten)
            changed_inputs = inputs != old.values.get("inputs_content", inputs)
            if old.version == SCHEMA_VERSION and not changed_inputs:
                continue
            rows.append(Migrated(old.folder.name, old.version, old.version == SCHEMA_VERSION))
            rewritten[old.content] = "" if dry_run else _replace(folder, old, inputs)
        if not dry_run:
            _migrate_history(folder)
    return rows


def _in_order(folder: Path) -> list[_Old]:
    """Parents before children, by the fingerprints that manifests name."""
    waiting = [_Old(p.parent, *raw_manifest(p.parent)) for p in sorted(folder.glob(f"*/{FILE_NAME}"))]
    ordered: list[_Old] = []
    while waiting:
        open_now = {old.values.get("fingerprint") for old in waiting}
        ready = [old for old in waiting if not open_now & (_parents(old) - {old.values.get("fingerprint")})]
        ordered.append((ready or waiting)[0])
        waiting.remove(ordered[-1])
    return ordered


def _parents(old: _Old) -> set[str]:
    return set(old.values.get("parents", {}).values())


def _inputs_content(old: _Old, folder: Path, rewritten: Mapping[str, str]) -> dict[str, str]:
    """What each input holds: as noted, with rewritten outputs under their new hash; where nothing was noted, as the
    stage of that fingerprint holds it now."""
    noted = old.values.get("inputs_content")
    if noted is not None:
        return {name: rewritten.get(content, content) for name, content in noted.items()}
    there = {o.values.get("fingerprint"): o.content for o in _in_folder(folder)}
    return {name: there[parent] for name, parent in old.values.get("parents", {}).items() if parent in there}


def _in_folder(folder: Path) -> Iterator[_Old]:
    for path in folder.glob(f"*/{FILE_NAME}"):
        yield _Old(path.parent, *raw_manifest(path.parent))


def _replace(folder: Path, old: _Old, inputs: Mapping[str, str]) -> str:
    """Write the stage anew, put it in the old one's place, and return its new content hash."""
    name = old.folder.name
    _check_seal(folder, old)
    new, backup = folder / _NEW / name, _backup(folder, name, old.version)
    shutil.rmtree(new, ignore_errors=True)
    manifest = migrate_output(old.folder, new, inputs)
    backup.parent.mkdir(parents=True, exist_ok=True)
    old.folder.rename(backup)
    new.rename(old.folder)
    new.parent.rmdir()
    _seal(folder, name)
    return plain_content(manifest.model_dump(mode="json"))


def _backup(folder: Path, name: str, version: int) -> Path:
    taken = len(list((folder / BACKUPS).glob(f"{name}-v{version}-*")))
    return folder / BACKUPS / f"{name}-v{version}-{taken + 1:04d}"


def _check_seal(folder: Path, old: _Old) -> None:
    seal = Ledger(folder).seal(old.folder.name)
    now = _plain_seal(old.values)
    changed = sorted(key for key in seal.keys() | now.keys() if seal.get(key) != now.get(key))
    if seal and changed:
        raise DataError(
            f"'{changed[0]}' was changed after the stage ended",
            place=f"{old.folder.name}/{FILE_NAME}",
            hint=f"what was edited is not migrated: make it again with --rebuild {old.folder.name}",
        )


def _plain_seal(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: content_hash(value)[:16] for key, value in values.items()}


def _seal(folder: Path, name: str) -> None:
    """Seal the new manifest, when the old one was sealed; asked again after a kill, it seals what was missed."""
    ledger, backups = Ledger(folder), sorted((folder / BACKUPS).glob(f"{name}-v*"))
    seal = ledger.seal(name)
    if not any(seal == _plain_seal(raw_manifest(backup)[0]) for backup in backups):
        return
    manifest = open_manifest(folder / name).manifest
    ledger.append(
        Entry(
            event="sealed",
            stage=name,
            fingerprint=manifest.fingerprint,
            message=f"migrated to schema version {SCHEMA_VERSION}",
            seal=seal_of(manifest),
        )
    )


def _finish_interrupted(folder: Path) -> None:
    """After a kill: a whole new output whose old one is aside takes its place; a half-written one goes."""
    for new in sorted((folder / _NEW).glob("*")):
        if (new / FILE_NAME).is_file() and not (folder / new.name).exists():
            new.rename(folder / new.name)
        else:
            shutil.rmtree(new)
    shutil.rmtree(folder / _NEW, ignore_errors=True)
    for backup in sorted((folder / BACKUPS).glob("*-v*")):
        name = backup.name.rpartition("-v")[0]
        if (folder / name / FILE_NAME).is_file() and raw_manifest(folder / name)[1] == SCHEMA_VERSION:
            _seal(folder, name)


def _migrate_history(folder: Path) -> None:
    """Manifests of replaced iterations have no records any more; what their inputs held is not known."""
    for path in sorted((folder / ".history").glob(f"*/*/{FILE_NAME}")):
        values, version = raw_manifest(path.parent)
        if version < SCHEMA_VERSION:
            path.replace(path.with_name(f"{FILE_NAME}.v{version}"))
            write_json(path, migrated_values(values, version, values.get("inputs_content", {})))
