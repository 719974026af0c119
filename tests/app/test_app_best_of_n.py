"""`rung best-of-n`: a pilot's stored candidates, read, counted and decided on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.app.conftest import write_output
from tests.datagen.datagen_builders import candidate, rejected

from rung.app.cli import execute
from rung.records.types import Candidate, Drop


def pilot(runs: Path, rows: list[Candidate], drops: list[Drop]) -> None:
    records = {"candidate": ("candidate", rows), "drop": ("drop", drops)}
    write_output(runs, "r", "pilot", records, stage="bootstrap", spend={"seconds": 60.0, "tokens": 900.0, "money": 0.0})


def one_of_three(number: int) -> list[Candidate]:
    """Three responses, one of them kept."""
    losers = [rejected(number, id=f"c{number}-{place}") for place in (1, 2)]
    return [candidate(number, id=f"c{number}-0"), *losers]


def test_it_decides_from_the_records_and_shows_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pilot(tmp_path, [row for number in range(24) for row in one_of_three(number)], [])
    assert execute(["best-of-n", "r/pilot", "--runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "24 answered instructions" in shown
    assert "33.3%" in shown
    assert "100.0%" in shown
    assert "go: 3 responses per instruction" in shown
    # 900 tokens written, three of three tokens for each of 24 instructions: (900 - 216) / 24 + 3 * 3 for three
    assert f"{(900 - 216) / 24 + 9:.0f}" in shown


def test_the_rule_is_the_users_to_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pilot(tmp_path, [row for number in range(24) for row in one_of_three(number)], [])
    assert execute(["best-of-n", "r/pilot", "--min-gain", "0.9", "--runs", str(tmp_path)]) == 0
    assert "no-go" in capsys.readouterr().out


def test_an_output_without_candidates_is_an_error_with_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_output(tmp_path, "r", "probe")
    assert execute(["best-of-n", "r/probe", "--runs", str(tmp_path)]) != 0
    assert "rung best-of-n RUN/pilot" in "".join(capsys.readouterr())
