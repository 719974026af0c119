"""`rung best-of-n`: a pilot's stored candidates, read, counted and decided on."""

from __future__ import annotations

from pathlib import Path

import pytest
from app_finished_run import write_output
from tests.datagen.datagen_builders import candidate, rejected

from rung.app.cli import execute
from rung.base.errors import SettingsError
from rung.base.settings import validate
from rung.pipeline.stages.bootstrap import Bootstrap
from rung.records.manifest import open_manifest
from rung.records.types import Candidate, Drop


def pilot(runs: Path, rows: list[Candidate], drops: list[Drop]) -> None:
    records = {"candidate": ("candidate", rows), "drop": ("drop", drops)}
    spend = {"seconds": 60.0, "tokens": 900.0, "money": 0.0}
    settings = {"count": 24, "responses": {"kind": "responses", "num_candidates": 3, "temperature": 0.9}}
    write_output(runs, "r", "pilot", records, stage="bootstrap", spend=spend, settings=settings)


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


def scale_settings(tmp_path: Path, **said: object) -> dict[str, tuple[object, str]]:
    """What a large run takes from the pilot."""
    settings = validate(Bootstrap.Settings, {"settings_from": "pilot", **said}, "scale")
    return Bootstrap(settings).derived({"pilot": open_manifest(tmp_path / "r" / "pilot")})


def test_a_large_run_draws_what_the_rule_says_and_its_manifest_says_why(tmp_path: Path) -> None:
    pilot(tmp_path, [row for number in range(24) for row in one_of_three(number)], [])
    same, origin = scale_settings(tmp_path)["responses"]
    assert same == {"kind": "responses", "num_candidates": 3, "temperature": 0.9}
    decided, origin = scale_settings(tmp_path, num_candidates="auto")["responses"]
    assert decided == same
    assert origin.startswith("best-of-N rule on pilot: 2 responses:")
    strict = scale_settings(tmp_path, num_candidates="auto", best_of_n={"min_yield_gain": 0.9})["responses"]
    assert strict[0] == {**same, "num_candidates": 1}  # type: ignore[dict-item]
    assert scale_settings(tmp_path, num_candidates=2)["responses"][0] == {**same, "num_candidates": 2}  # type: ignore[dict-item]


def test_a_number_on_the_pilot_itself_lands_in_its_manifest_and_auto_needs_a_pilot() -> None:
    own = Bootstrap(validate(Bootstrap.Settings, {"num_candidates": 3}, "pilot")).derived({})
    assert own["responses"][0]["num_candidates"] == 3
    with pytest.raises(SettingsError, match="settings_from"):
        validate(Bootstrap.Settings, {"num_candidates": "auto"}, "scale")
