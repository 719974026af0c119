"""The experiment on foreign pairs: which tasks it takes, what its page says, and that it skips out loud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from experiments.critic_seed_tasks import page, read_seed_tasks, run
from tests.scoring.test_scoring_judges_table import PAIRS, informed

from rung.base.lookup import part
from rung.records.scripted import Scripted
from rung.scoring.calibration import CalibrationSettings, calibrate


def task(instruction: str, given: str, answer: str) -> dict[str, Any]:
    instances = [{"input": given, "output": answer}, {"input": "", "output": "never read"}]
    return {"instruction": instruction, "instances": instances, "is_classification": False}


def test_short_tasks_are_taken_with_their_input(tmp_path: Path) -> None:
    rows = [task("Add.", "1 and 2", "3"), task("Write.", "", "word " * 41), task("Nothing.", "", " ")]
    path = tmp_path / "seed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = read_seed_tasks(path)
    assert (found.instruction, found.response, found.type) == ("Add.\n1 and 2", "3", "generation")


def test_the_page_has_a_row_for_every_corruption_and_both_verdicts() -> None:
    reports = {}
    for name in ("choice", "information_gain"):
        kind, settings = part("scoring.judges", name)
        judge = kind(settings, completer=Scripted([], informed))
        reports[name] = calibrate(judge, PAIRS, CalibrationSettings(num_resamples=200), 1)
    text = page(reports)
    assert f"{len(PAIRS)} pairs that nobody tuned them on" in text
    for corruption in reports["choice"].kinds:
        assert f"| {corruption}" in text
    assert "choice: may not gate" in text
    assert "information_gain: may gate" in text


def test_without_the_file_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNG_SEED_TASKS", str(tmp_path / "absent"))
    run(tmp_path)
    assert "skipped" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
