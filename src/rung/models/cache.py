"""Where loading keeps what is dear to make: converted weights, hashes of large files, measurements of this machine.

The folder is `RUNG_CACHE` or ~/.cache/rung. Everything in it can be deleted at any time; it is made again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rung.base.errors import StorageError
from rung.base.files import TEMPORARY_SUFFIX, read_json, write_json
from rung.base.fingerprint import content_hash, hash_file

__all__ = ["Cache"]


class Cache:
    """A folder of entries that are whole or absent."""

    def __init__(self, root: Path | None = None) -> None:
        default = os.environ.get("RUNG_CACHE") or Path.home() / ".cache" / "rung"
        self.root = Path(root or default)

    def folder(self, kind: str, key: str, fill: Callable[[Path], None]) -> Path:
        """The folder `kind/key`; when it is not there, `fill` writes it under another name and it is renamed.

        Raises:
            StorageError: the disk refused; the entry does not exist afterwards.
        """
        final = self.root / kind / key
        if final.is_dir():
            return final
        temporary = final.with_name(f"{key}.{os.getpid()}{TEMPORARY_SUFFIX}")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            fill(temporary)
            _settle(temporary, final)
        except OSError as error:
            raise StorageError(
                f"cannot write the model cache: {error.strerror or error}",
                place=str(final.parent),
                hint="free some space, or set RUNG_CACHE to a folder on a larger disk",
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final

    def value(self, kind: str, key: str, make: Callable[[], Any]) -> Any:
        """The JSON value `kind/key`, made and kept when it is not there. A damaged file counts as absent."""
        path = self.root / kind / f"{key}.json"
        try:
            return read_json(path)
        except (OSError, json.JSONDecodeError, UnicodeDecodeError):
            made = make()
        write_json(path, made)
        return made

    def known(self, kind: str, key: str) -> Any:
        """The JSON value `kind/key`, or None."""
        try:
            return read_json(self.root / kind / f"{key}.json")
        except (OSError, json.JSONDecodeError, UnicodeDecodeError):
            return None

    def hash_of(self, path: Path) -> str:
        """SHA-256 of a file, remembered by its path, size and time of change."""
        stat = path.stat()
        key = content_hash([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
        return str(self.value("hashes", key, lambda: hash_file(path)))


def _settle(temporary: Path, final: Path) -> None:
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    try:
        temporary.rename(final)
    except OSError:
        # another process finished the same entry first; its content is the same, for the key names the content
        if not final.is_dir():
            raise
