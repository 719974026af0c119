"""What running a program apart costs: trivial programs per second from two threads, beside a plain `python -I`.

Each turn runs the same number of programs both ways. A cold start is a new sandbox up to its first answer. The plain
process has no isolation at all: it is the price of starting an interpreter, not a rival.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._paired import machine, paired
from rung.base.files import write_json
from rung.base.lookup import lookup
from rung.scoring.sandbox.contract import Sandbox, Verdict
from rung.scoring.sandbox.ladder import climb
from rung.scoring.sandbox.plan import INTERPRETER
from rung.scoring.sandbox.rung import Rung
from rung.scoring.sandbox.settings import SandboxSettings

__all__ = ["run"]

PROGRAM = "print('hello')"
WANTED_RATE, WANTED_COLD_MS = 500.0, 25.0


@dataclass(frozen=True)
class Size:
    """How many programs, how often."""

    num_programs: int = 400
    num_cold: int = 20
    rounds: int = 5
    threads: int = 2


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure and write `bench_sandbox.json`; the medians in one line."""
    found = measure(Size(20, 2, 1) if quick else Size())
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "bench_sandbox.json", {"machine": machine(), "quick": quick, **found})
    return (
        f"{found['runs_per_second']} runs/s (wanted {WANTED_RATE:g}), cold start {found['cold_start_ms']} ms "
        f"(wanted under {WANTED_COLD_MS:g}), {found['ratio_median']}x a plain python -I"
    )


def measure(size: Size) -> dict[str, Any]:
    """Both contestants, then cold starts."""
    settings = SandboxSettings(slots=size.threads)
    chosen = climb(settings)
    try:
        _rate(lambda: _ours(chosen.sandbox), size)
        found = paired(lambda: _rate(lambda: _ours(chosen.sandbox), size), lambda: _rate(_plain, size), size.rounds)
    finally:
        chosen.sandbox.close()
    rung = lookup("scoring.sandbox.rungs", chosen.rung)()
    cold = [_cold(rung) for _ in range(size.num_cold)]
    return found | {
        "runs_per_second": statistics.median(found["ours"]),
        "cold_start_ms": round(statistics.median(cold), 1),
        "selftest": chosen.record(),
        "size": vars(size),
        "unit": "trivial programs per second",
    }


def _rate(once: Callable[[], None], size: Size) -> float:
    with ThreadPoolExecutor(size.threads) as threads:
        start = time.perf_counter()
        list(threads.map(lambda _: once(), range(size.num_programs)))
        return size.num_programs / (time.perf_counter() - start)


def _ours(sandbox: Sandbox) -> None:
    outcome = sandbox.run(PROGRAM)
    assert outcome.verdict == Verdict.OK, outcome


def _plain() -> None:
    done = subprocess.run([INTERPRETER, "-I", "-c", PROGRAM], capture_output=True, check=True)
    assert done.stdout == b"hello\n"


def _cold(rung: Rung) -> float:
    """Milliseconds to the first answer of a new sandbox."""
    start = time.perf_counter()
    sandbox = rung.build(SandboxSettings(slots=1))
    _ours(sandbox)
    seconds = time.perf_counter() - start
    sandbox.close()
    return seconds * 1000
