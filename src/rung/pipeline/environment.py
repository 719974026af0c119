"""What the work was done with: library versions and the kind of processor. No host names, no users, no paths."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import rung

__all__ = ["describe"]

_LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "peft",
    "bitsandbytes",
    "numpy",
    "scipy",
    "zstandard",
)


@lru_cache(maxsize=1)
def describe() -> dict[str, str]:
    """Versions of Python, rung and the libraries that shape results (those installed), processor and GPU kinds."""
    found = {"python": platform.python_version(), "rung": rung.__version__, "system": platform.system()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["cpu"] = _cpu()
    found["num_cpus"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    gpus = [_field(path, "Model") for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    if gpus:
        found["gpu"] = ", ".join(gpus)
    return found


def _cpu() -> str:
    return _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()


def _field(path: Path, name: str) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
