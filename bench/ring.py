"""Ring attention on 1, 2 and 4 processes: time, bytes sent and peak memory of a rank, by length of the context.

Forward and backward of one layer's causal attention in float32, 4 query and 2 key/value heads of width 64. Beside it
the all-gather way (Llama 3) with the same kernel and order of tokens, and torch's own context parallelism: its public
interface does not know the kernel of a CPU, so its ring is called with that kernel. Processes share the machine's
cores (two threads for one process, else one each), so more of them cannot be faster here than the cores allow; what
grows is the context that fits. Bytes are those of the loopback device, per rank.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["run"]

LENGTHS, ROUNDS, SIZES = (2048, 8192, 32768), 3, (1, 2, 4)


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure all numbers of processes; writes `bench_ring.json`, returns one line."""
    from bench._paired import machine
    from bench._ring_worker import HEADS, WIDTH
    from rung.base.files import write_json

    lengths, rounds = ((512,), 1) if quick else (LENGTHS, ROUNDS)
    found = {str(size): _job(size, lengths, rounds) for size in (SIZES[:2] if quick else SIZES)}
    settings = {"heads": HEADS, "head_width": WIDTH, "rounds": rounds, "precision": "float32"}
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "bench_ring.json", {"machine": machine(), "settings": settings, "processes": found})
    longest, most = str(lengths[-1]), str(max(map(int, found)))
    rows = found[most][longest]
    alone = max(found["1"][longest]["ring"]["peak_megabytes"])
    return (
        f"{longest} tokens on {most} processes: "
        + "; ".join(
            f"{name} {row['seconds']:.2f} s, {row['sent_megabytes']:.0f} MB sent and "
            f"{max(row['peak_megabytes']):.0f} MB at most a rank"
            for name, row in rows.items()
        )
        + f"; one process takes {alone:.0f} MB"
    )


def _job(size: int, lengths: tuple[int, ...], rounds: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench._ring_worker", str(size), json.dumps(lengths), str(rounds)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        raise RuntimeError(f"{size} processes failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
