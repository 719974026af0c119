"""Two contestants, turn by turn in one process, so that what else the machine does meets both; and the machine."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["machine", "paired"]


def paired(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> dict[str, Any]:
    """Speeds (higher is better) of both in `rounds` turns, taking turns at going first; the ratio with its spread."""
    speeds: list[tuple[float, float]] = []
    for turn in range(rounds):
        if turn % 2:
            their_speed, our_speed = theirs(), ours()
        else:
            our_speed, their_speed = ours(), theirs()
        speeds.append((our_speed, their_speed))
    ratios = [our_speed / their_speed for our_speed, their_speed in speeds]
    return {
        "rounds": rounds,
        "ours": [round(o, 2) for o, _ in speeds],
        "theirs": [round(t, 2) for _, t in speeds],
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_lowest": round(min(ratios), 2),
        "ratio_highest": round(max(ratios), 2),
    }


def machine() -> dict[str, Any]:
    """What the numbers were taken on; the load tells how far to trust them."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }
