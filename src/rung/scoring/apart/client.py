"""The caller's side of a judging process: started when first asked, killed when it overruns, started again after.

One process per service is shared by all verifiers (`shared`); a lock serves one caller at a time, so it may be used
from any thread. A forked child starts its own.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import rung
from rung.base.errors import MissingDependency, WorkerLost

__all__ = ["Apart", "Overrun", "shared"]

_MEMORY_BYTES = 2 << 30
_WALL_PER_CPU = 20.0  # the backstop for a process that waits instead of working
_WALL_LEAST = 60.0
_PACKAGES = {"math_verify": "math-verify", "z3": "z3-solver", "reasoning_gym": "reasoning-gym"}


class Overrun(Exception):
    """A call used up its processor seconds or its memory; the message says which."""


class Apart:
    """One judging process for the service `name` of `apart/serve.py`."""

    def __init__(self, name: str, memory_bytes: int = _MEMORY_BYTES) -> None:
        self.name, self.memory_bytes = name, memory_bytes
        self.num_starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def call(self, ask: Mapping[str, Any], seconds: float) -> Any:
        """The service's answer within `seconds` of processor time.

        Raises:
            Overrun: time or memory was used up; the next call finds a fresh process.
            MissingDependency: the service's package is not installed.
            WorkerLost: the process died twice for another reason, or the service failed.
        """
        line = json.dumps({"seconds": seconds, "ask": dict(ask)}).encode() + b"\n"
        with self._lock:
            for attempt in range(2):
                reply = self._exchange(line, max(_WALL_LEAST, seconds * _WALL_PER_CPU))
                if reply is not None:
                    return self._read(reply)
                ended = self._end()
                if ended in (-signal.SIGPROF, -signal.SIGKILL):
                    raise Overrun(f"used up {seconds:g} s of processor time")
                if attempt:
                    raise WorkerLost(f"the process that judges '{self.name}' died twice, exit status {ended}")
        raise AssertionError("unreachable: both attempts return or raise")

    def close(self) -> None:
        """End the process; a later call starts another."""
        with self._lock:
            self._end()

    def _read(self, reply: Mapping[str, Any]) -> Any:
        if "missing" in reply:
            package = _PACKAGES.get(str(reply["missing"]), str(reply["missing"]))
            raise MissingDependency(f"'{self.name}' needs the package {package}", hint="pip install 'rung[verifiers]'")
        if "exhausted" in reply:
            raise Overrun(f"used up its memory or stack ({reply['exhausted']})")
        if "failed" in reply:
            raise WorkerLost(f"'{self.name}' failed: {reply['failed']}")
        return reply["found"]

    def _exchange(self, line: bytes, wall_seconds: float) -> dict[str, Any] | None:
        """The reply; None when the process died or was killed for its silence."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            return None
        data, deadline = b"", time.monotonic() + wall_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not data.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    process.kill()
                    return None
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    return None
                data += piece
        found: dict[str, Any] = json.loads(data)
        return found

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid():
            command = [sys.executable, "-P", "-s", "-m", "rung.scoring.apart.serve", self.name, str(self.memory_bytes)]
            root = str(Path(rung.__file__).parent.parent)
            environment = {"PYTHONPATH": root, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "PATH": os.defpath}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]
            self._owner = os.getpid()
            self.num_starts += 1
        return self._process

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                _close(pipe)
        if process.poll() is None:
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                process.kill()
        return process.wait()


@lru_cache(maxsize=8)
def shared(name: str) -> Apart:
    """The process-wide server of a service; it ends with the interpreter."""
    apart = Apart(name)
    atexit.register(apart.close)
    return apart


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except BrokenPipeError:  # what was still buffered has no reader any more
        return
