"""What a source of a corpus gives: pieces with a name and an identity, each of which can be read on its own.

A piece is what is processed once and kept: a file, or a stream of the hub. Its `content` hashes what it holds, so that
a corpus knows which pieces are new; the names of pieces never hold a machine's path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from rung.base.errors import DataError
from rung.base.fingerprint import hash_file
from rung.records.types import Drop

__all__ = ["Found", "Piece", "Source", "content_of_file", "files_below"]


@dataclass(frozen=True, slots=True)
class Found:
    """A text where a source has it. `text` is whatever stands in the field: checks decide whether it is one."""

    place: str
    text: Any
    licence: str = ""
    language: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a source that is read on its own."""

    name: str
    content: str
    read: Callable[[], Iterator[Found | Drop]]


class Source(Protocol):
    """A part of `rung.datagen.sources`."""

    def pieces(self) -> Sequence[Piece]:
        """All of it, in an order that depends on names alone.

        Raises:
            DataError: there is nothing.
        """


def files_below(path: Path, endings: Sequence[str] = ()) -> list[tuple[str, Path]]:
    """(name, path) of a file, or of every file below a folder whose name has one of the endings (none: every one), by
    name. What begins with a dot is no data.

    Raises:
        DataError: there is no such file or folder, or nothing in it.
    """
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise DataError("there is no such file or folder", place=str(path), hint="check the path in the recipe")
    found = [(p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file()]
    kept = [
        (name, p)
        for name, p in sorted(found)
        if not any(part.startswith(".") for part in name.split("/"))
        and (not endings or name.lower().endswith(tuple(endings)))
    ]
    if not kept:
        raise DataError(
            "the folder holds no file of this kind", place=str(path), hint=f"looked for: {endings or 'any'}"
        )
    return kept


def content_of_file(path: Path) -> str:
    """SHA-256 of a file, read once as long as its size and time of change stay the same."""
    stat = path.stat()
    return _hashed(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _hashed(path: str, size: int, changed: int) -> str:
    return hash_file(Path(path))
