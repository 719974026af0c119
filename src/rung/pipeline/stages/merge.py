"""Join the shards of a data stage: repeats across shards go, and the union must pass QC again.

The shard files of the source stay as they are. A failed union names the shards that cause it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.base.fingerprint import plain
from rung.base.settings import Field, Settings
from rung.datagen.merge import Shard, blame, merge
from rung.datagen.qc import Thresholds, decide, figures
from rung.pipeline.stage import Context, Outputs, Stage, Verdict
from rung.pipeline.stages._qc import data_figures, data_verdict
from rung.records.manifest import Opened
from rung.records.types import Candidate, Instruction, SftRecord

__all__ = ["Merge"]


class MergeSettings(Settings):
    """What is joined and what the union must meet."""

    of: str = Field(description="the data stage whose shards are joined")
    thresholds: Thresholds = Field(Thresholds(), description="what the union must meet")
    most_repeats: float = Field(0.1, ge=0, le=1, description="share of records that may be lost as repeats")


class Merge(Stage):
    """One data set out of shards."""

    Settings = MergeSettings
    version = 1
    uses_model = False
    outputs: Mapping[str, str] = {"instruction": "instruction", "candidate": "candidate", "sft": "sft", "drop": "drop"}

    def inputs(self) -> dict[str, str]:
        """The data stage."""
        return {"data": self.settings.of}

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """One union."""
        return 1.0

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Join in shard order; the first of equal instructions stays."""
        source = inputs["data"]
        shards = shards_of(source)
        merged = merge(shards)
        written = {
            "instruction": merged.instructions,
            "candidate": merged.candidates,
            "drop": merged.dropped,
            "sft": merged.records,
        }
        for output, records in written.items():
            outputs.shard(output, 0, records)
        found = figures(merged.instructions, merged.candidates, merged.records, self.settings.thresholds)
        verdict = decide(found, self.settings.thresholds)
        outputs.note("figures", {"shards": plain(merged.counts)})
        outputs.note("figures", {"blame": blame(verdict, shards, self.settings.thresholds)})
        outputs.note("drops", {"repeat across shards": len(merged.dropped)})
        outputs.note("model", source.manifest.model)
        outputs.note("calibration", source.manifest.calibration)
        context.budget.spend()

    def figures(self, output: Opened) -> dict[str, Any]:
        """QC of the union, recomputed; records lost as repeats beyond the allowed share are missing."""
        counts = output.manifest.figures.get("shards", {})
        total = sum(row["records"] for row in counts.values())
        least = total - int(total * self.settings.most_repeats)
        return data_figures(output, self.settings.thresholds, least)

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """The same verdict as for the data stage."""
        return data_verdict(figures)


def shards_of(data: Opened) -> list[Shard]:
    """The shards of a data stage, as they were made."""
    columns: dict[str, list[list[Any]]] = {}
    for output in ("instruction", "candidate", "sft"):
        columns[output] = [list(data.shard(output, number)) for number in range(len(data.manifest.shards[output]))]
    rows = zip(columns["instruction"], columns["candidate"], columns["sft"], strict=True)
    return [
        Shard(f"shard_{n}", _all(i, Instruction), _all(c, Candidate), _all(r, SftRecord))
        for n, (i, c, r) in enumerate(rows)
    ]


def _all(records: list[Any], kind: type) -> tuple[Any, ...]:
    assert all(isinstance(record, kind) for record in records)
    return tuple(records)
