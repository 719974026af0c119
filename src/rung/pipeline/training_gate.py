"""The gate before training: every record is read, values and not only keys are checked (spec items 92-95).

It is the same for every stage that trains; what may not be trained on is said with the record's place and field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rung.base.errors import GateFailed
from rung.pipeline.verify import code_bypassed, gate_bypass
from rung.records.manifest import Manifest, Opened

__all__ = ["REQUIRED_METADATA", "check_provenance", "check_record"]

REQUIRED_METADATA = ("loader_version", "model_name", "git_commit", "seed")


def check_provenance(data: Opened, output: str, bypasses: Sequence[str] = ()) -> list[Any]:
    """All records of `output`, after checking that each may be trained on.

    Args:
        data: the opened data stage.
        output: which of its outputs holds the records.
        bypasses: what the run skipped on purpose; `--allow-dirty` skips the unknown-commit rule
            alone, `--force` of the data stage its verdict alone.

    Raises:
        GateFailed: no QC figures in the manifest, QC not passed, or a record without a required value.
    """
    _check_manifest(data.manifest, bypasses)
    records = []
    for number, record in enumerate(data.records(output), 1):
        check_record(record.metadata, f"{data.manifest.name}/{output}:{number}", code_bypassed(bypasses))
        records.append(record)
    if not records:
        raise GateFailed("there is nothing to train on", place=data.manifest.name, hint="look at its QC: rung inspect")
    return records


def _check_manifest(manifest: Manifest, bypasses: Sequence[str]) -> None:
    if not manifest.figures.get("qc"):
        raise GateFailed("the data has no QC figures (qc)", place=manifest.name,
                         hint="data for training comes from a stage that measures it")  # fmt: skip
    forced = any(text.startswith(gate_bypass(manifest.name)) for text in bypasses)
    if not manifest.gate.get("passed") and not forced:
        raise GateFailed("the data's gate did not pass", place=manifest.name, hint=f"rung inspect {manifest.name}")


def check_record(metadata: Mapping[str, Any], place: str, allow_unknown: bool) -> None:
    """Hold one record's metadata against what training requires.

    Raises:
        GateFailed: a required value is missing, or unknown code made the record.
    """
    for name in REQUIRED_METADATA:
        value = metadata.get(name)
        if value is None or value == "":
            raise GateFailed(f"the record has no {name}", place=place, hint="it was not made by a gated stage")
    if metadata["git_commit"] == "unknown" and not allow_unknown:
        raise GateFailed("the record was made by unknown code", place=place, hint="--allow-dirty records the bypass")
