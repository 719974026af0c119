"""Memory and device, read where the system tells them; what it does not tell is None, never a guess."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Readings", "read_device", "resident_bytes"]

_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class Readings:
    """`note` says why a device's figures are missing. `used` is a share of time, from 0 to 1."""

    device: str
    resident_bytes: int | None
    present: bool = False
    allocated_bytes: int | None = None
    total_bytes: int | None = None
    used: float | None = None
    note: str = ""


def read_device(device: str) -> Readings:
    """The state of this process and of `device`, as torch names it."""
    resident = resident_bytes()
    if not device.startswith("cuda"):
        return Readings(device, resident, note="no accelerator: the model runs on the processor")
    _, total = torch.cuda.mem_get_info(device)
    used, note = _utilisation(device)
    return Readings(device, resident, True, torch.cuda.memory_allocated(device), total, used, note)


def resident_bytes() -> int | None:
    """Physical memory of this process; None where the system has no /proc."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _utilisation(device: str) -> tuple[float | None, str]:
    try:
        return float(torch.cuda.utilization(device)) / 100, ""
    except (ImportError, RuntimeError) as error:
        return None, f"use is not known: {type(error).__name__} (it needs nvidia-ml-py)"
