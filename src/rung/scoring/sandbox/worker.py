"""The pool's end of one worker process: start it, give it orders, end it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import rung
from rung.scoring.sandbox.contract import Limits
from rung.scoring.sandbox.inside import wire
from rung.scoring.sandbox.inside.wire import Order, Plan
from rung.scoring.sandbox.plan import INTERPRETER

__all__ = ["Broken", "Worker"]

_START_SECONDS = 30.0
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# -P -s -S: no folder of the user's on the path; not -I, which would ignore PYTHONHASHSEED.
_FLAGS = ("-P", "-s", "-S", "-B", "-X", "utf8")


class Broken(Exception):
    """The sandbox failed, not a program."""


class Worker:
    """A process behind closed doors that runs programs one after another.

    Raises:
        Broken: it did not come to stand.
    """

    def __init__(self, plan: Plan) -> None:
        self.num_jobs = 0
        self.socket, theirs = socket.socketpair()
        with theirs:
            self._process = _start(theirs.fileno())
        try:
            self.socket.settimeout(_START_SECONDS)
            wire.send(self.socket, b"p", plan.pack())
            answer = wire.receive(self.socket)
        except (OSError, wire.Closed) as error:
            self.kill()
            raise Broken(f"a worker did not start: {error or 'it ended'}") from error
        if answer.tag != wire.STARTED:
            self.kill()
            raise Broken(f"a worker did not start: {answer.payload.decode(errors='replace')}")

    def order(self, source: str, limits: Limits, descriptors: Sequence[int]) -> None:
        """Begin a program with these descriptors as its 0, 1, 2 and so on. Raises Broken when it could not begin."""
        self.num_jobs += 1
        try:
            wire.send(self.socket, wire.ORDER, _order(source, limits).pack(), tuple(descriptors))
            answer = wire.receive(self.socket)
        except (OSError, wire.Closed) as error:
            raise Broken(f"the worker was lost before the program began: {error}") from error
        if answer.tag != wire.READY:
            raise Broken(answer.payload.decode(errors="replace"))

    def stop_program(self) -> None:
        """Ask for the program's end; the worker answers with an ending."""
        with contextlib.suppress(OSError, wire.Closed):
            wire.send(self.socket, wire.KILL)

    def kill(self) -> None:
        """End it and with it, by the kernel's hand, everything that runs inside."""
        self._process.kill()
        self._process.wait()
        self.socket.close()


def _start(descriptor: int) -> subprocess.Popen[bytes]:
    source = str(Path(rung.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {source!r}); " + (
        f"from rung.scoring.sandbox.inside.launcher import main; main({descriptor})"
    )
    nothing = subprocess.DEVNULL
    return subprocess.Popen(
        [INTERPRETER, *_FLAGS, "-c", code],
        stdin=nothing, stdout=nothing, stderr=nothing, env=_ENVIRONMENT, pass_fds=(descriptor,), cwd="/",
        start_new_session=True,
    )  # fmt: skip


def _order(source: str, limits: Limits) -> Order:
    data = source.encode("utf-8", "surrogatepass")
    return Order(
        data,
        int.from_bytes(blake2b(data, digest_size=8).digest(), "big"),
        cpu_seconds=limits.cpu_seconds,
        wall_seconds=limits.wall_seconds,
        memory_bytes=limits.memory_bytes,
        file_bytes=limits.file_bytes,
        processes=limits.processes,
    )
