"""Which number type is faster on this machine: measured once, kept in the cache, and said.

On CPUs without matrix instructions for bfloat16 it is several times slower than float32; on GPUs and newer CPUs faster.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Literal

import torch

from rung.base.fingerprint import content_hash
from rung.base.settings import Settings
from rung.models.cache import Cache

__all__ = ["DTYPES", "PrecisionChoice", "choose"]

Precision = Literal["auto", "float32", "bfloat16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# a narrower type costs accuracy, so it must earn it
WORTHWHILE = 1.3


class PrecisionChoice(Settings):
    """What was chosen and the measurement behind it, in GFLOP/s (0 when it was asked for by name)."""

    precision: Literal["float32", "bfloat16"]
    float32_gflops: float = 0.0
    bfloat16_gflops: float = 0.0
    machine: str = ""

    def reason(self) -> str:
        """One line for reports."""
        if not self.machine:
            return f"{self.precision}, as asked"
        return (
            f"{self.precision}: measured {self.float32_gflops:.0f} GFLOP/s in float32 and "
            f"{self.bfloat16_gflops:.0f} in bfloat16 on {self.machine}"
        )


def choose(precision: Precision, device: str, cache: Cache) -> PrecisionChoice:
    """The asked-for type, or for "auto" the faster of float32 and bfloat16 on this machine (measured once)."""
    if precision != "auto":
        return PrecisionChoice(precision=precision)
    machine = _machine(device)
    key = content_hash([machine, torch.__version__])
    found = cache.value("precision", key, lambda: _measure(device, machine).model_dump())
    return PrecisionChoice.model_validate(found)


def _measure(device: str, machine: str) -> PrecisionChoice:
    wide, narrow = (_gflops(dtype, device) for dtype in (torch.float32, torch.bfloat16))
    return PrecisionChoice(
        precision="bfloat16" if narrow > WORTHWHILE * wide else "float32",
        float32_gflops=round(wide, 1),
        bfloat16_gflops=round(narrow, 1),
        machine=machine,
    )


def _gflops(dtype: torch.dtype, device: str, size: int = 768) -> float:
    one = torch.ones((size, size), dtype=dtype, device=device)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        one @ one
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def _machine(device: str) -> str:
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    wanted = {"model name", "vendor_id", "cpu family", "model"}
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = sorted({"avx2", "avx512f", "avx512_bf16", "amx_bf16"} & set(facts.get("flags", "").split()))
    name = facts.get("model name") or platform.processor() or platform.machine()
    details = " ".join(facts[key] for key in sorted(wanted - {"model name", "vendor_id"}) if key in facts)
    return f"{name} (family/model {details}; {' '.join(flags)})" if details else name
