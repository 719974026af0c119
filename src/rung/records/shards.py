"""Shards: JSON lines compressed with zstandard, written under a temporary name, flushed and renamed.

Bytes depend on the records alone (fixed compression level, no time stamps), so equal data has equal hashes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pydantic
import zstandard

from rung.base.errors import DataError
from rung.base.files import inside, plain_name, write_bytes
from rung.base.fingerprint import canonical, content_hash, hash_file
from rung.base.settings import Field, Settings
from rung.records.types import RECORD_TYPES, from_plain, to_plain

__all__ = ["ShardInfo", "read_jsonl", "read_lines", "read_shard", "verify_shard", "write_shard"]

_LEVEL = 3


class ShardInfo(Settings):
    """One shard in a manifest: `name` is relative to the manifest's folder, never a machine's path."""

    name: str = Field(description="file name relative to the manifest, e.g. records-0000.jsonl.zst")
    record_type: str = Field(description="a key of RECORD_TYPES")
    count: int = Field(ge=0, description="records in it")
    sha256: str = Field(description="of the file's bytes")
    records_sha256: str = Field(description="of the uncompressed canonical lines")

    _name_stays_here = pydantic.field_validator("name")(plain_name)

    @pydantic.field_validator("record_type")
    @classmethod
    def _type_is_known(cls, value: str) -> str:
        """A type from a newer rung, or from nowhere."""
        if value not in RECORD_TYPES:
            raise ValueError(f"{value!r:.80} is no record type; known: {', '.join(sorted(RECORD_TYPES))}")
        return value


def write_shard(folder: Path, name: str, record_type: str, records: Sequence[Any]) -> ShardInfo:
    """Write records as one shard, whole or not at all, and say what was written.

    Raises:
        StorageError: the disk refused; nothing of that name was changed.
        DataError: a record is not of `record_type`.
    """
    kind = RECORD_TYPES[record_type]
    for record in records:
        if type(record) is not kind:
            raise DataError(f"a {type(record).__name__} in a shard of {record_type}", place=name)
    lines = "".join(canonical(to_plain(record)) + "\n" for record in records).encode()
    data = zstandard.ZstdCompressor(level=_LEVEL).compress(lines)
    write_bytes(folder / name, data)
    return ShardInfo(
        name=name,
        record_type=record_type,
        count=len(records),
        sha256=content_hash(data),
        records_sha256=content_hash(lines),
    )


def read_shard(folder: Path, info: ShardInfo) -> Iterator[Any]:
    """Yield the records of a shard, one at a time.

    Raises:
        DataError: the file is missing or broken, or a line is not a record; names file and line.
    """
    kind = RECORD_TYPES[info.record_type]
    for number, values in enumerate(read_lines(folder, info), 1):
        yield from_plain(kind, values, f"{info.name}:{number}")


def read_lines(folder: Path, info: ShardInfo) -> Iterator[dict[str, Any]]:
    """Yield the records of a shard as they stand, of whatever version.

    Raises:
        DataError: the file is missing or broken, or a line is not an object; names file and line.
    """
    number = 0
    for number, line in enumerate(_lines(inside(folder, info.name)), 1):
        yield _parsed(line, f"{info.name}:{number}")
    if number != info.count:
        raise DataError(f"{number} records where the manifest says {info.count}", place=info.name)


def read_jsonl(path: Path, record_type: str) -> Iterator[tuple[str, Any]]:
    """Yield (file:line, record) of a file of plain JSON lines, one record each; empty lines are passed over.

    Raises:
        DataError: it cannot be read, or a line is not a record; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the file: {error}", place=path.name) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{path.name}:{number}"
            yield place, from_plain(RECORD_TYPES[record_type], _parsed(line, place), place)


def verify_shard(folder: Path, info: ShardInfo) -> None:
    """Check that the file is there and hashes to what its manifest says.

    Raises:
        DataError: it does not.
    """
    path = inside(folder, info.name)
    if not path.is_file():
        raise DataError("the shard is missing", place=str(path), hint="run the stage again with --rebuild STAGE")
    if hash_file(path) != info.sha256:
        raise DataError(
            "the shard does not hash to what its manifest says",
            place=str(path),
            hint="it was changed or damaged; run the stage again with --rebuild STAGE",
        )


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", place=place) from error
    if not isinstance(values, dict):
        raise DataError(f"not a record but a JSON {type(values).__name__}", place=place)
    return values


def _lines(path: Path) -> Iterable[str]:
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            yield from io.TextIOWrapper(reader, encoding="utf-8")
    except (OSError, zstandard.ZstdError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the shard: {error}", place=str(path)) from error
