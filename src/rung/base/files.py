"""Writing that is never half done (a temporary name, a flush to disk, a rename), and names that stay where they are."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from rung.base.errors import DataError, StorageError
from rung.base.fingerprint import plain

__all__ = [
    "TEMPORARY_SUFFIX",
    "inside",
    "plain_name",
    "publish",
    "read_json",
    "write_bytes",
    "write_json",
    "write_text",
]

TEMPORARY_SUFFIX = ".partial"


def plain_name(name: str) -> str:
    """`name`, which a file gave for another file, when it can only mean something below a folder.

    Raises:
        ValueError: empty, absolute, with `..`, or with characters that mean something else on another system.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
        raise ValueError(f"{name!r:.80} is not a plain relative name")
    return name


def inside(folder: Path, name: str) -> Path:
    """The path of `name` below `folder`.

    Raises:
        DataError: it would lead out of the folder, by its name or through a symbolic link.
    """
    try:
        path = folder / plain_name(name)
        leads_out = not path.resolve().is_relative_to(folder.resolve())
    except (ValueError, OSError, RuntimeError) as error:
        raise DataError(f"refused: {error}", place=str(folder), hint="a plain name below the folder") from error
    if leads_out:
        raise DataError(f"refused: {name!r:.80} leads out of its folder", place=str(folder), hint="links stay inside")
    return path


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
