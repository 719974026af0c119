"""The manifest: what makes a folder an output. Its existence means done, its content recomputes.

Written last, whole or not at all. It never holds a machine's path or a secret.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

from rung.base.errors import DataError
from rung.base.files import inside, plain_name, write_json
from rung.base.fingerprint import Code, canonical, content_hash, hash_file
from rung.base.settings import Field, Settings
from rung.records.shards import ShardInfo, read_shard, verify_shard

__all__ = [
    "FILE_NAME",
    "FileInfo",
    "Manifest",
    "Opened",
    "identity_text",
    "open_manifest",
    "version_of",
    "write_manifest",
]

FILE_NAME = "manifest.json"
SCHEMA_VERSION = 1


class FileInfo(Settings):
    """A file of the output that is not a shard (adapter, checkpoint, summary)."""

    name: str = Field(description="path relative to the manifest")
    sha256: str = Field(description="of the file's bytes")
    role: str = Field(description="what it is: adapter, weights, summary, curve, text")

    _name_stays_here = pydantic.field_validator("name")(plain_name)


class Manifest(Settings):
    """Everything a later stage, a gate or a reader needs to know about an output."""

    schema_version: int = SCHEMA_VERSION
    run: str = Field(description="the recipe's run name")
    name: str = Field(description="the stage's name in the recipe")
    stage: str = Field(description="the kind of stage, a file in pipeline/stages")
    stage_version: int = Field(description="raised by hand when the stage's meaning changes")
    fingerprint: str = Field(description="SHA-256 of `identity`")
    identity: str = Field(description="the canonical text that the fingerprint hashes")
    settings: dict[str, Any] = Field(description="complete settings, defaults filled in")
    origins: dict[str, str] = Field(default_factory=dict, description="where each setting came from")
    parents: dict[str, str] = Field(default_factory=dict, description="input name -> fingerprint of what was read")
    inputs_content: dict[str, str] = Field(default_factory=dict, description="input name -> hash over what was read")
    shards: dict[str, list[ShardInfo]] = Field(default_factory=dict, description="output name -> its shards")
    files: list[FileInfo] = Field(default_factory=list)
    drops: dict[str, int] = Field(default_factory=dict, description="reason -> how many were left out")
    figures: dict[str, Any] = Field(default_factory=dict, description="what the stage measured, recomputable")
    gate: dict[str, Any] = Field(default_factory=dict, description="rules, values and verdict as decided at the time")
    calibration: dict[str, Any] = Field(default_factory=dict, description="measured quality of critics and verifiers")
    model: dict[str, Any] = Field(default_factory=dict, description="model and loader report, guard results included")
    seeds: dict[str, int] = Field(default_factory=dict)
    code: Code
    environment: dict[str, str] = Field(default_factory=dict, description="library versions, CPU or GPU kind")
    degraded: list[dict[str, str]] = Field(default_factory=list, description="optional parts that were gone, and how")
    bypasses: list[str] = Field(default_factory=list, description="gates skipped on purpose, inherited downstream")
    spend: dict[str, float] = Field(default_factory=dict, description="seconds, tokens, money")
    estimate: dict[str, float] = Field(default_factory=dict, description="the same, as expected before")
    started: str = Field(description="UTC, ISO 8601")
    ended: str = Field(description="UTC, ISO 8601")
    outcome: str = Field(description="'done', or the code of a named ending")


class Opened:
    """A manifest with its folder: the only way a stage reads another stage's output."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self.manifest = folder, manifest

    def records(self, output: str) -> Iterator[Any]:
        """All records of one output, shard after shard."""
        if output not in self.manifest.shards:
            known = ", ".join(self.manifest.shards) or "none"
            raise DataError(f"stage '{self.manifest.name}' has no output '{output}'", hint=f"it has: {known}")
        for info in self.manifest.shards[output]:
            yield from read_shard(self._folder, info)

    def shard(self, output: str, number: int) -> Iterator[Any]:
        """The records of one shard, by its place in the manifest."""
        yield from read_shard(self._folder, self.manifest.shards[output][number])

    def count(self, output: str) -> int:
        """Number of records of one output."""
        return sum(info.count for info in self.manifest.shards.get(output, []))

    def file(self, role: str) -> Path:
        """Path of the first file with that role."""
        for info in self.manifest.files:
            if info.role == role:
                return inside(self._folder, info.name)
        raise DataError(f"stage '{self.manifest.name}' has no file of role '{role}'")

    def verify(self) -> None:
        """Check every shard and file against its hash, and the fingerprint against its text.

        Raises:
            DataError: naming the first that differs.
        """
        manifest = self.manifest
        if content_hash(manifest.identity.encode()) != manifest.fingerprint:
            raise DataError(
                "the fingerprint does not match its text: the manifest was edited",
                place=f"{manifest.name}/{FILE_NAME}",
                hint=f"rung run ... --rebuild {manifest.name}",
            )
        for infos in manifest.shards.values():
            for info in infos:
                verify_shard(self._folder, info)
        for file in manifest.files:
            path = inside(self._folder, file.name)
            if not path.is_file() or hash_file(path) != file.sha256:
                raise DataError(
                    "the file is missing or changed",
                    place=f"{manifest.name}/{file.name}",
                    hint=f"rung run ... --rebuild {manifest.name}",
                )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it, last and whole."""
    write_json(folder / FILE_NAME, manifest)


def open_manifest(folder: Path) -> Opened:
    """Read the manifest in `folder`.

    Raises:
        DataError: missing, not JSON, of another schema version, or with fields that do not fit.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise DataError("there is no finished output here", place=str(folder), hint="run the stage first: rung run")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not a manifest: {error}", place=str(path)) from error
    _check_version(values, path)
    try:
        return Opened(folder, Manifest.model_validate(values))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", place=str(path)) from error


def version_of(values: Any) -> int | None:
    """Schema version of a manifest's values, 0 where none is written; None when they are no manifest's."""
    if not isinstance(values, dict) or "fingerprint" not in values:
        return None
    version = values.get("schema_version", 0)
    if isinstance(version, bool) or not isinstance(version, int):
        return None
    return version


def _check_version(values: Any, path: Path) -> None:
    version = version_of(values)
    if version is None:
        raise DataError("not a manifest: no fingerprint, or no schema version", place=str(path))
    if version > SCHEMA_VERSION:
        raise DataError(
            f"schema version {version} is newer than the {SCHEMA_VERSION} that this rung reads",
            place=str(path),
            hint="update rung; rung migrate goes to newer versions only",
        )
    if version < SCHEMA_VERSION:
        raise DataError(
            f"schema version {version}, this rung reads {SCHEMA_VERSION}",
            place=str(path),
            hint=f"rung migrate {shlex.quote(str(path.parent))}",
        )


def identity_text(stage: str, version: int, settings: Any, parents: dict[str, str], seed: int) -> str:
    """The canonical text of what an output is: stage, version, settings, inputs, seed; never paths or hosts."""
    return canonical({"stage": stage, "version": version, "settings": settings, "parents": parents, "seed": seed})
