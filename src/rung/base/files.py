"""Writing that is never half done: a temporary name, a flush to disk, then a rename."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rung.base.errors import StorageError
from rung.base.fingerprint import plain

__all__ = ["TEMPORARY_SUFFIX", "publish", "read_json", "write_bytes", "write_json", "write_text"]

TEMPORARY_SUFFIX = ".partial"


def publish(temporary: Path, final: Path) -> None:
    """Flush `temporary` to disk and rename it to `final`; after this returns, `final` survives a power cut."""
    try:
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, final)
        folder = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(
            f"cannot write {final.name}: {error.strerror}",
            place=str(final.parent),
            hint="free some space and run the same command again",
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises:
        StorageError: the disk refused; no file of this name was changed.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path.name}: {error.strerror}",
            place=str(path.parent),
            hint="free some space and run the same command again",
        ) from error
    publish(temporary, path)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for text, UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises `json.JSONDecodeError` and `OSError` as they come; callers name the place."""
    return json.loads(path.read_text(encoding="utf-8"))
