"""Runs a repository's test files inside the sandbox, one process each, in a fresh copy each, and prints what they told.

This file is sent as text and runs no code of the repository. It lets no process look into it, ends everything that a
file left behind before the next one begins, and nothing of a file's process reaches its output or its input.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]

_FLAGS = ("-P", "-s", "-S", "-B", "-X", "utf8")
_NOT_DUMPABLE = 4
_MOST_BYTES = 4 << 20
_ROOM = Path("/tmp")


def main() -> None:
    """Take the order from standard input, print the nonce and the results."""
    order = json.load(sys.stdin)
    if ctypes.CDLL(None).prctl(_NOT_DUMPABLE, 0, 0, 0, 0):
        raise OSError("this process can be looked into")
    results = [_file(order, run) for run in order["runs"]]
    print(order["nonce"] + json.dumps(results))  # noqa: T201


def _file(order: dict[str, Any], run: dict[str, Any]) -> str:
    """What the process of one test file told, as it came."""
    _clear()
    root = _ROOM / run["folder"]
    for name, text in {**order["files"], **run["files"]}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    told, tell = os.pipe()
    where = {"PATH": "/usr/bin:/bin", "HOME": str(root), "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, *_FLAGS, "-c", order["child"]],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(tell,), cwd=root,
        env={**where, **order["environment"]},
    )  # fmt: skip
    os.close(tell)
    paths = [str(root / path) for path in order["paths"]]
    given = {"nonce": run["nonce"], "pipe": tell, "arguments": run["arguments"], "paths": paths}
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(json.dumps(given).encode())
    said = _heard(process, told, time.monotonic() + order["seconds"])
    os.close(told)
    _clear()
    process.wait()
    return said


def _heard(process: subprocess.Popen[bytes], told: int, deadline: float) -> str:
    """Everything till the process has ended, or the time, or more than anybody honest says."""
    said = b""
    while time.monotonic() < deadline and len(said) < _MOST_BYTES:
        ended = process.poll() is not None
        if select.select([told], [], [], 0.0 if ended else 0.05)[0]:
            piece = os.read(told, 1 << 16)
            said += piece
            if not piece:
                break
        elif ended:
            break
    return said.decode(errors="replace")


def _clear() -> None:
    """End every other process of this program, and remove what it wrote."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    for entry in _ROOM.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
