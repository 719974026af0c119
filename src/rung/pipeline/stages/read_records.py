"""Training records from a file: JSON lines as `rung scale` writes them, checked line by line and by QC as a whole.

The records bring their provenance with them; one without it is refused here, with its line, and not first in training.
QC sees only what was kept, so its rates are those of the kept records: how much was rejected, the file does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.base.errors import DataError
from rung.base.fingerprint import plain
from rung.base.settings import Field, Settings
from rung.datagen.qc import Thresholds, decide, figures
from rung.pipeline.stage import Context, Outputs, Stage, Verdict
from rung.pipeline.stages._qc import NOT_JUDGED, data_verdict
from rung.pipeline.training_gate import check_record
from rung.pipeline.verify import code_bypassed
from rung.records.manifest import Opened
from rung.records.shards import read_jsonl
from rung.records.types import Candidate, SftRecord

__all__ = ["ReadRecords"]


class ReadRecordsSettings(Settings):
    """Which file, and what its records must meet."""

    file: str = Field(
        min_length=1, description="JSON lines, a training record each, as rung scale --output writes them"
    )
    thresholds: Thresholds = Field(Thresholds(), description="what the records must meet")


class ReadRecords(Stage):
    """The records of a file as a data stage."""

    Settings = ReadRecordsSettings
    version = 1
    uses_model = False
    outputs: Mapping[str, str] = {"sft": "sft"}

    def files(self) -> dict[str, Path]:
        """The file."""
        return {"file": Path(self.settings.file)}

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Read every line, or name the first that is no record that may be trained on."""
        found: list[SftRecord] = []
        places: dict[str, str] = {}
        for place, record in read_jsonl(Path(self.settings.file), "sft"):
            if record.id in places:
                raise DataError(f"record {record.id} stands at {places[record.id]} already", place=place)
            check_record(record.metadata, place, code_bypassed(context.bypasses))
            places[record.id] = place
            found.append(record)
        outputs.shard("sft", 0, found)

    def figures(self, output: Opened) -> dict[str, Any]:
        """QC of the records, recomputed, and its verdict."""
        records: list[SftRecord] = list(output.records("sft"))
        limits = self.settings.thresholds
        found = figures([], [_kept(record) for record in records], records, limits)
        judged = any(record.pair_critique for record in records)
        advisory = {"min_instruction_acceptance": NOT_JUDGED}
        advisory |= {} if judged else {"min_pair_acceptance": "the records hold no critic's judgement"}
        clean = all(record.metadata.get("guard_verdict") != "contaminated" for record in records)
        return {"qc": plain(found), "qc_verdict": plain(decide(found, limits, advisory, clean)), "missing": 0}

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """The same verdict as for data that were made here."""
        return data_verdict(figures)


def _kept(record: SftRecord) -> Candidate:
    """The candidate that became the record, as far as the record says."""
    return Candidate(
        id=record.id,
        instruction_id=record.id,
        instruction=record.instruction,
        type=record.type,
        prompt=record.prompt,
        seed=0,
        raw_text=record.raw_response,
        generated=record.raw_response,
        response=record.response,
        finish_reason=record.finish_reason,
        num_raw_tokens=record.num_response_tokens,
        num_response_tokens=record.num_response_tokens,
        pair_critique=record.pair_critique,
        outcome="kept",
    )
