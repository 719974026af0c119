"""Memory, processor and device of a process and its children, read where the system tells them.

What it does not tell is None, with a word about why; nothing is guessed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Readings", "cpu_percent", "read"]

_PROC = Path("/proc")
_SMI_SECONDS = 5.0
_UTIME, _STIME = 11, 12  # fields of /proc/PID/stat behind the process's name, counted from 0


@dataclass(frozen=True, slots=True)
class Readings:
    """`resident_bytes` and `cpu_seconds` cover the process and its living children; `device_used` is a share of time
    from 0 to 1. `note` says why the device's figures are missing."""

    num_processes: int = 0
    resident_bytes: int | None = None
    cpu_seconds: float | None = None
    device_used: float | None = None
    device_bytes: int | None = None
    note: str = ""


def read(pid: int, proc: Path = _PROC) -> Readings:
    """The present state of process `pid`."""
    family = [pid, *_children(pid, proc)]
    sizes = [size for one in family if (size := _resident(one, proc)) is not None]
    times = [seconds for one in family if (seconds := _cpu_seconds(one, proc)) is not None]
    used, held, note = _device()
    return Readings(
        num_processes=len(sizes),
        resident_bytes=sum(sizes) if sizes else None,
        cpu_seconds=sum(times) if times else None,
        device_used=used,
        device_bytes=held,
        note=note,
    )


def cpu_percent(before: Readings, now: Readings, seconds: float) -> float | None:
    """Processor use between two readings, 100 for one core; None where it is not known, or a child has ended since."""
    if before.cpu_seconds is None or now.cpu_seconds is None or seconds <= 0 or now.cpu_seconds < before.cpu_seconds:
        return None
    return 100.0 * (now.cpu_seconds - before.cpu_seconds) / seconds


def _children(pid: int, proc: Path) -> list[int]:
    found: list[int] = []
    for path in (proc / str(pid) / "task").glob("*/children"):
        try:
            own = [int(text) for text in path.read_text(encoding="ascii").split()]
        except (OSError, ValueError):
            continue
        found += [one for child in own for one in (child, *_children(child, proc))]
    return found


def _resident(pid: int, proc: Path) -> int | None:
    try:
        return int((proc / str(pid) / "statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _cpu_seconds(pid: int, proc: Path) -> float | None:
    try:
        fields = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[_UTIME]) + int(fields[_STIME])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _device() -> tuple[float | None, int | None, str]:
    """Use and memory of the accelerators together, as NVIDIA's own tool says."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None, None, "no accelerator here"
    query = [program, "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
        rows = [[float(part) for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
        return sum(row[0] for row in rows) / len(rows) / 100, int(sum(row[1] for row in rows) * 2**20), ""
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, ZeroDivisionError) as error:
        return None, None, f"the accelerator's use is not known: {type(error).__name__}"
