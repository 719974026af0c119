"""What a program has used so far: processor time of all its processes, memory of all its processes, time on the clock.

Looked at twenty times a second; the kernel's own limits on each process stand behind it.
"""

from __future__ import annotations

import os
import time

from rung.scoring.sandbox.inside.wire import Order, Reason

__all__ = ["Watch"]

_TICKS = os.sysconf("SC_CLK_TCK")


class Watch:
    """Over the program whose first process is `pid`."""

    def __init__(self, pid: int, order: Order, started: float) -> None:
        self._pid, self._order, self._started = pid, order, started

    def look(self) -> int:
        """The reason to end it now, `Reason.NONE` while there is none."""
        if time.monotonic() - self._started > self._order.wall_seconds:
            return Reason.WALL
        try:
            return self._look_closer()
        except OSError:
            # It has just ended; the next turn of the loop sees that.
            return Reason.NONE

    def _look_closer(self) -> int:
        if self._order.processes == 1:
            return Reason.CPU if _process_clock(self._pid) > self._order.cpu_seconds else Reason.NONE
        others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
        if sum(map(_all_seconds, others)) > self._order.cpu_seconds:
            return Reason.CPU
        return Reason.MEMORY if sum(map(_own_bytes, others)) > self._order.memory_bytes else Reason.NONE


def _process_clock(pid: int) -> float:
    """Processor seconds of all threads of a process (see clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def _all_seconds(pid: int) -> float:
    """Processor seconds of a process and of its children that have ended."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def _own_bytes(pid: int) -> int:
    """Memory that is no file's. What was forked from the worker counts once for each process: a bound from above."""
    found = 0
    for line in _read(pid, "status").splitlines():
        if line.startswith((b"RssAnon:", b"RssShmem:")):
            found += int(line.split()[1]) * 1024
    return found


def _read(pid: int, name: str) -> bytes:
    """A file about a process; nothing when the process has gone meanwhile."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b") " + b"0 " * 20
