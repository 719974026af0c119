"""One process at a time per run folder.

The lock is the kernel's, on an open file, so it ends with its process however that ends; the number inside is for the
message only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from rung.base.errors import Busy

__all__ = ["holder", "locked"]


def holder(folder: Path) -> int | None:
    """The process that holds `folder` now, by its number; None when nobody does. Nothing is changed.

    A process that is just starting may find the folder busy for the instant that this looks.
    """
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(descriptor, 20).decode(errors="replace").strip()
        return int(text) if text.isdecimal() else 0
    finally:
        os.close(descriptor)
    return None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` while the block runs.

    Raises:
        Busy: another living process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "another process"
            raise Busy(
                f"run '{folder.name}' is being worked on by process {holder}", hint="wait for it, or stop it first"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
