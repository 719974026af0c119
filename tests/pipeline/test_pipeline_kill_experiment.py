"""The arithmetic of the kill experiment: moments lie in the stages' time, and a byte that differs is named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from experiments.kill_resume import differences, moments

LEDGER = [
    {"event": event, "stage": stage, "time": f"2026-01-01T00:{minute:02d}:00+00:00"}
    for stage, first, last in (("probe", 0, 2), ("sft", 5, 9))
    for event, minute in (("started", first), ("sealed", last), ("ended", last))
]


def test_moments_cover_the_stages_and_count_on_from_the_last_one() -> None:
    drawn = moments(LEDGER, 40, random.Random(1))
    assert len(drawn) == 40
    assert [stage for stage, _ in drawn] == sorted((stage for stage, _ in drawn), key=["probe", "sft"].index)
    spent = {name: sum(seconds for stage, seconds in drawn if stage == name) for name in ("probe", "sft")}
    assert 60 < spent["probe"] <= 120
    assert 120 < spent["sft"] <= 240
    assert all(seconds >= 0 for _, seconds in drawn)


@pytest.mark.parametrize("change", ["other bytes", "missing", None])
def test_a_file_that_differs_is_named(tmp_path: Path, change: str | None) -> None:
    for name in ("whole", "killed"):
        for path in ("data/sft-0000.jsonl.zst", "sft/adapter/weights.safetensors", "sft/manifest.json"):
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"same")
    changed = tmp_path / "killed" / "sft" / "adapter" / "weights.safetensors"
    if change == "missing":
        changed.unlink()
    elif change:
        changed.write_bytes(b"SAME")
    (tmp_path / "killed" / "sft" / "manifest.json").write_bytes(b"times differ")
    found = differences(tmp_path / "whole", tmp_path / "killed")
    assert found["data"] == {"files": 1, "bytes": 4, "different": []}
    assert found["sft"]["different"] == (["sft/adapter/weights.safetensors"] if change else [])
