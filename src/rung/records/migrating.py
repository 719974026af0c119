"""Bringing an output of an older schema version to the present one, into a folder of its own.

What is read is checked first: a damaged or edited output is refused, because afterwards nothing could tell.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pydantic

from rung.base.errors import DataError
from rung.base.files import inside
from rung.base.fingerprint import content_hash, hash_file
from rung.base.lookup import known, lookup
from rung.records.manifest import FILE_NAME, SCHEMA_VERSION, FileInfo, Manifest, version_of, write_manifest
from rung.records.shards import ShardInfo, read_lines, write_shard
from rung.records.types import RECORD_TYPES, from_plain

__all__ = ["Step", "migrate_output", "migrated_values", "plain_content", "raw_manifest", "steps_from"]

FOLDER = "records.migrations"


class Step(Protocol):
    """From one version to the next."""

    def manifest(self, values: Mapping[str, Any], inputs_content: Mapping[str, str]) -> dict[str, Any]:
        """The manifest's values; `inputs_content` is what the inputs hold now."""

    def record(self, record_type: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """One record's values."""


def steps_from(version: int, place: str) -> list[Step]:
    """The steps from `version` to the present one, in order.

    Raises:
        DataError: there is no way, above all from a version newer than this rung.
    """
    if version > SCHEMA_VERSION:
        raise DataError(
            f"schema version {version} is newer than the {SCHEMA_VERSION} that this rung writes",
            place=place,
            hint="update rung; rung migrate goes to newer versions only",
        )
    names = [f"v{number}_to_v{number + 1}" for number in range(version, SCHEMA_VERSION)]
    for name in names:
        if name not in known(FOLDER):
            raise DataError(f"there is no step {name}", place=place, hint="it was written by a rung that is too old")
    return [lookup(FOLDER, name)() for name in names]


def raw_manifest(folder: Path) -> tuple[dict[str, Any], int]:
    """A manifest's values as they stand, and their schema version.

    Raises:
        DataError: not a manifest.
    """
    path = folder / FILE_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"not a manifest: {error}", place=str(path)) from error
    version = version_of(values)
    if version is None:
        raise DataError("not a manifest: it has no schema version that is a number", place=str(path))
    return values, version


def plain_content(values: Mapping[str, Any]) -> str:
    """Hash over what readers of an output see, from its manifest's values; the same in all versions."""
    shards = {name: [info["records_sha256"] for info in infos] for name, infos in values.get("shards", {}).items()}
    return content_hash({"shards": shards, "files": {file["name"]: file["sha256"] for file in values.get("files", ())}})


def migrated_values(values: Mapping[str, Any], version: int, inputs_content: Mapping[str, str]) -> dict[str, Any]:
    """A manifest's values at the present version; its shards are still the old ones."""
    changed = {**values, "inputs_content": dict(inputs_content)}
    for step in steps_from(version, str(values.get("name", ""))):
        changed = step.manifest(changed, inputs_content)
    return changed


def migrate_output(folder: Path, target: Path, inputs_content: Mapping[str, str]) -> Manifest:
    """Write the output of `folder` at the present version into `target`, the manifest last.

    Raises:
        DataError: it is damaged, was edited, or does not fit what this rung reads.
        StorageError: the disk refused.
    """
    values, version = raw_manifest(folder)
    steps, name = steps_from(version, str(folder)), str(values.get("name", folder.name))
    target.mkdir(parents=True)
    try:
        infos = {o: [ShardInfo.model_validate(i) for i in found] for o, found in values.get("shards", {}).items()}
        files = [FileInfo.model_validate(file) for file in values.get("files", ())]
        _check_whole(folder, [info for found in infos.values() for info in found], files)
        shards = {output: [_shard(folder, target, info, steps) for info in found] for output, found in infos.items()}
        manifest = Manifest.model_validate({**migrated_values(values, version, inputs_content), "shards": shards})
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise DataError(f"{where}: {problem['msg']}", place=f"{name}/{FILE_NAME}") from error
    for file in files:
        _carry(folder / file.name, target / file.name)
    write_manifest(target, manifest)
    return manifest


def _check_whole(folder: Path, shards: list[ShardInfo], files: list[FileInfo]) -> None:
    listed: list[ShardInfo | FileInfo] = [*shards, *files]
    for info in listed:
        path = inside(folder, info.name)
        if not path.is_file() or hash_file(path) != info.sha256:
            raise DataError(
                "it is missing, or does not hash to what its manifest says",
                place=str(path),
                hint="what is damaged is not migrated: make it again with --rebuild STAGE",
            )


def _shard(folder: Path, target: Path, info: ShardInfo, steps: list[Step]) -> ShardInfo:
    kind = RECORD_TYPES[info.record_type]
    records = [from_plain(kind, values, info.name) for values in _migrated(folder, info, steps)]
    return write_shard(target, info.name, info.record_type, records)


def _migrated(folder: Path, info: ShardInfo, steps: list[Step]) -> Iterator[dict[str, Any]]:
    for values in read_lines(folder, info):
        changed = values
        for step in steps:
            changed = step.record(info.record_type, changed)
        yield changed


def _carry(source: Path, target: Path) -> None:
    """A second name for the same bytes where the disk can do that: weights are large and never written in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
