"""Training refuses data whose making is not known, record by record and value by value (spec items 92-95)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pipeline_toys import CLEAN

from rung.base.errors import GateFailed
from rung.base.fingerprint import content_hash
from rung.pipeline.training_gate import check_provenance
from rung.pipeline.verify import CODE_BYPASS, gate_bypass
from rung.records.manifest import Manifest, Opened
from rung.records.shards import write_shard
from rung.records.types import SftRecord

FULL = {"loader_version": "1", "model_name": "m", "git_commit": "c" * 40, "seed": 3}


def data(folder: Path, bad: dict[str, Any] | None = None, qc: Any = "figures", passed: bool = True) -> Opened:
    """600 records; `bad` replaces the metadata of number 500 (None as a value removes the key)."""
    records = []
    for number in range(600):
        changes = bad if bad and number == 499 else {}
        metadata = {k: v for k, v in {**FULL, **changes}.items() if v is not None}
        texts = ("i", "r", "t", "p", "tp", "c", "raw", "stop")
        records.append(SftRecord(f"{number}", *texts, 1, None, None, metadata=metadata))
    shard = write_shard(folder, "sft-0000.jsonl.zst", "sft", records)
    manifest = Manifest(
        run="r", name="data", stage="merge", stage_version=1, fingerprint=content_hash(b"x"), identity="x",
        settings={}, shards={"sft": [shard]}, figures={"qc": qc} if qc else {}, gate={"passed": passed},
        code=CLEAN, started="", ended="", outcome="done",
    )  # fmt: skip
    return Opened(folder, manifest)


def test_whole_data_is_given_back(tmp_path: Path) -> None:
    assert len(check_provenance(data(tmp_path), "sft")) == 600


@pytest.mark.parametrize("name", sorted(FULL))
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_or_empty_value_on_line_500_is_named(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(GateFailed, match=f"(?s)data/sft:500.*{name}"):
        check_provenance(data(tmp_path, {name: value}), "sft")


def test_no_qc_or_a_failed_gate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match="QC"):
        check_provenance(data(tmp_path, qc=None), "sft")
    with pytest.raises(GateFailed, match="gate did not pass"):
        check_provenance(data(tmp_path, passed=False), "sft")


def test_a_forced_gate_is_a_recorded_bypass(tmp_path: Path) -> None:
    assert len(check_provenance(data(tmp_path, passed=False), "sft", (gate_bypass("data") + "why",))) == 600
    with pytest.raises(GateFailed):
        check_provenance(data(tmp_path, passed=False), "sft", (gate_bypass("other") + "why",))


def test_unknown_code_needs_the_recorded_bypass(tmp_path: Path) -> None:
    opened = data(tmp_path, {"git_commit": "unknown"})
    with pytest.raises(GateFailed, match="unknown code"):
        check_provenance(opened, "sft")
    assert len(check_provenance(opened, "sft", (CODE_BYPASS + "on purpose",))) == 600
