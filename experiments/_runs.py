"""Runs of `rung run` as processes of their own, and what their ledgers say afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rung.pipeline.budget import Spend

__all__ = ["finished", "ledger", "seconds_in", "spend_of", "started"]


def started(recipe: Path, runs: Path, options: Sequence[str] = (), threads: int = 0) -> subprocess.Popen[bytes]:
    """`rung run` under way; `threads` of the processor for it (0: as it finds them)."""
    command = [sys.executable, "-m", "rung", "run", str(recipe), "--runs", str(runs), "--quiet", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads else None
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def finished(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Its exit code, and what it said at the end."""
    _, said = process.communicate()
    return process.returncode, said.decode(errors="replace").strip()


def ledger(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ledger so far."""
    path = run_folder / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def spend_of(run_folder: Path, stage: str = "") -> Spend:
    """What all attempts of a stage (of all stages) spent."""
    total = Spend()
    for line in ledger(run_folder):
        if line["event"] == "ended" and stage in ("", line["stage"]):
            total += Spend(**line["spend"])
    return total


def seconds_in(run_folder: Path, stage: str) -> float:
    """Seconds by the clock from the last start of a stage to its end."""
    times = {line["event"]: line["time"] for line in ledger(run_folder) if line["stage"] == stage}
    return datetime.fromisoformat(times["ended"]).timestamp() - datetime.fromisoformat(times["started"]).timestamp()
