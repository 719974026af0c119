"""Several sets of records, one training and one held-out suite: what a choice of data does to the tuned model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rung.base.events import Events
from rung.base.seeds import derive
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import load
from rung.pipeline.stages._answering import answer_items
from rung.records.chat.frame import Frame
from rung.records.packing import Example
from rung.records.types import Answer, Candidate, SftRecord, TestItem
from rung.train import adapters, loop
from rung.train.settings import AdapterSettings, SftSettings

__all__ = ["as_points", "mean_passes", "tuned"]


def tuned(
    source: str, records: Sequence[Candidate] | Sequence[SftRecord], items: Sequence[TestItem], seed: int
) -> list[Answer]:
    """Answers of the model after SFT on `records`, with the quickstart's settings."""
    loaded = load(source, precision="float32")
    examples = [
        Example(record.id, Frame.render(loaded.tokenizer, record.instruction, record.response)) for record in records
    ]
    adapters.prepare(loaded.network, AdapterSettings(), derive(seed, "adapter"))
    settings = SftSettings(seed=derive(seed, "order"), sequences_per_step=8, eval_fraction=0)
    with tempfile.TemporaryDirectory() as scratch:
        loop.train(
            loaded.network, loaded.tokenizer, examples, settings,
            events=Events(), scratch=Path(scratch), on_step=lambda num_tokens: None,
        )  # fmt: skip
    engine = Engine(loaded, EngineSettings(keep_logprobs=False, keep_entropies=False))
    return answer_items(engine, items, "tuned", 32, seed)


def mean_passes(by_seed: Sequence[Sequence[Answer]]) -> list[float]:
    """Per item, the share of seeds that pass it."""
    return [sum(answer.passed for answer in column) / len(column) for column in zip(*by_seed, strict=True)]


def as_points(lift: Mapping[str, Any]) -> str:
    """A difference with its interval, in percentage points."""
    interval = lift["interval"]
    return f"{lift['difference']:+.1%} [{interval['low']:+.1%}, {interval['high']:+.1%}]"
