"""Item 128: `rung sft --data FILE --epochs N`, a run like any other, and files that may not be trained on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rung.app.cli import execute
from rung.base.errors import DataError, Drift, GateFailed
from rung.base.fingerprint import canonical
from rung.datagen.assemble import sft_record
from rung.models.load import load
from rung.records.manifest import open_manifest
from rung.records.types import Candidate, Critique, SftRecord, to_plain

METADATA = {"loader_version": "1", "model_name": "tiny", "git_commit": "c" * 40}
GOOD = Critique("planted", True, True, "A", 3.0, 0.0, 3.0, 3.0, 0.1)


def record(number: int) -> SftRecord:
    text = f"It is number {number}."
    candidate = Candidate(
        f"c{number}", f"i{number}", f"Which number is the lamp {number}?", "qa", "p", number, text, text, text,
        "stop", 5, 6, pair_critique=GOOD, outcome="kept",
    )  # fmt: skip
    return sft_record(candidate, (), METADATA)


def written(path: Path, count: int = 24) -> Path:
    path.write_text("".join(canonical(to_plain(record(n))) + "\n" for n in range(count)))
    return path


def sft(path: Path, *more: str) -> int:
    options = ["--model", "tiny:llama", "--allow-dirty", "--runs", str(path.parent / "runs")]
    return execute(["sft", "--data", str(path), *options, "--set", "sft.training.learning_rate=5e-3", *more])


def test_item_128_a_file_of_records_is_trained_on(tmp_path: Path, capsys: Any) -> None:
    path = written(tmp_path / "stage 1.jsonl")
    assert sft(path, "--epochs", "3") == 0, capsys.readouterr().err
    run = tmp_path / "runs" / "sft-stage-1"
    trained, data = open_manifest(run / "sft").manifest, open_manifest(run / "data")
    assert trained.settings["training"]["epochs"] == 3
    assert trained.origins["training.epochs"] == "rung sft"
    assert trained.gate["passed"]
    assert [one.id for one in data.records("sft")] == [record(n).id for n in range(24)]
    assert data.manifest.figures["qc"]["counts"]["kept"] == 24
    assert load(f"run:{run / 'sft'}").report.verdict
    capsys.readouterr()
    assert sft(path, "--epochs", "3") == 0
    assert "nothing to do" in capsys.readouterr().out
    path.write_text("\n" + path.read_text())
    assert sft(path, "--epochs", "3") == Drift("").exit_code
    assert "file:file" in capsys.readouterr().err


def lacking(values: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in values.items() if key != "response"})


def unproven(values: dict[str, Any]) -> str:
    return json.dumps({**values, "id": "x", "metadata": {}})


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda values: "{", DataError, "not JSON"),
        (lambda values: "[]", DataError, "JSON list"),
        (lacking, DataError, "'response' is missing"),
        (unproven, GateFailed, "no loader_version"),
        (lambda values: json.dumps({**values, "colour": 1}), DataError, "unknown field 'colour'"),
        (lambda values: json.dumps({**values, "id": record(0).id}), DataError, "stands at records.jsonl:1"),
    ],
)
def test_a_bad_row_is_named_by_its_line(
    spoil: Callable[[dict[str, Any]], str], error: Any, words: str, tmp_path: Path, capsys: Any
) -> None:
    path = written(tmp_path / "records.jsonl", 3)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], spoil(json.loads(lines[1])), lines[2]]))
    assert sft(path) == error("").exit_code
    told = capsys.readouterr().err
    assert "records.jsonl:2" in told
    assert words in told
    assert not (tmp_path / "runs/sft-records/sft").exists()


def test_records_that_fail_quality_control_are_not_trained_on(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "records.jsonl"
    rows = [dataclasses.replace(record(n), instruction="Which number is it?") for n in range(24)]
    path.write_text("".join(canonical(to_plain(one)) + "\n" for one in rows))
    assert sft(path) == GateFailed("").exit_code
    assert "max_repeats: 23 is more than 0" in capsys.readouterr().err


def test_there_is_no_such_file(tmp_path: Path, capsys: Any) -> None:
    assert sft(tmp_path / "nothing.jsonl") == DataError("").exit_code
    assert "data.file" in capsys.readouterr().err
