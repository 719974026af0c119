"""Rubrics from the command line: two wordings over one labelled set, and other words for a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rung.app.choices import Choices
from rung.app.cli import execute
from rung.app.rubrics import rubric_settings
from rung.app.running import with_rubric
from rung.base.errors import DataError, SettingsError
from rung.pipeline.recipe import load
from rung.scoring.known_pairs import known_pairs
from rung.scoring.rubric_comparison import labelled_from, read_labelled

ROWS = [
    {"instruction": "Name a colour.", "response": "Blue", "type": "factual", "is_good": True},
    {"instruction": "Name an animal.", "response": "Seven", "is_good": False},
]


def test_one_command_tests_two_wordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled = tmp_path / "labelled.jsonl"
    labelled.write_text("".join(json.dumps(row) + "\n" for row in ROWS * 6))
    own = tmp_path / "own.yaml"
    own.write_text("good: names what was asked for\nbad: anything else\n")
    command = ["rubrics", "tiny:llama", "--first", "default", "--second", str(own), "--labelled", str(labelled)]
    assert execute(command) == 0
    shown = capsys.readouterr().out
    assert "12 labelled answers; equal verdicts" in shown
    for word in ("accepted", "precision", "recall", "exact McNemar", "default"):
        assert word in shown
    # a long path is folded over several lines of its narrow column
    column = "".join(line[:24].strip() for line in shown.splitlines() if line.startswith("  "))
    assert "own.yaml" in column


def test_the_shipped_pairs_come_with_one_corruption_each() -> None:
    pairs = known_pairs()
    made = labelled_from(pairs, seed=0)
    good, bad = [one for one in made if one.is_good], [one for one in made if not one.is_good]
    assert len(good) == len(bad) == len(pairs)
    assert all((a.instruction, a.response) != (b.instruction, b.response) for a, b in zip(good, bad, strict=True))
    assert len({one.response for one in bad}) > len(pairs) / 2


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "not JSON"), ('{"instruction": "a", "response": "b"}', "is_good"), ('["a"]', "instruction")],
)
def test_a_bad_labelled_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "labelled.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    with pytest.raises(DataError, match=said) as caught:
        read_labelled(path)
    assert caught.value.place == "labelled.jsonl:2"


def test_a_wording_that_is_neither_preset_nor_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="neither a rubric preset nor a file"):
        rubric_settings("strictt")
    half = tmp_path / "half.yaml"
    half.write_text("good: fine\n")
    with pytest.raises(SettingsError, match="bad"):
        rubric_settings(str(half))
    assert execute(["rubrics", "tiny:llama", "--first", "strictt"]) == SettingsError.exit_code


def critics(path: Path, *sets: str) -> list[Any]:
    return list(load(path, sets=sets).spec("calibrate").settings["critics"])


def test_words_from_the_command_line_reach_the_choice_critic_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("run: r\nmodel: tiny:llama\nstages:\n  - calibrate: {critics: [choice, information_gain]}\n")
    choices = with_rubric(path, "says: yes, briefly", "", Choices())
    assert critics(path, *choices.sets) == [
        {"kind": "choice", "rubric_good": "says: yes, briefly"},
        {"kind": "information_gain"},
    ]
    assert with_rubric(path, "", "", Choices()) == Choices()
    path.write_text("run: r\nmodel: tiny:llama\nstages:\n  - calibrate: {critics: [information_gain]}\n")
    with pytest.raises(SettingsError, match="A/B critic"):
        with_rubric(path, "x", "y", Choices())


def test_generate_takes_the_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "run: r\nmodel: tiny:llama\nstages:\n  - calibrate: {critics: [information_gain]}\n"
        "  - bootstrap: {name: data, count: 5}\n"
    )
    command = ["generate", "--count", "3", "--recipe", str(path), "--dry-run", "--runs", str(tmp_path / "runs")]
    assert execute(command) == 0
    assert execute([*command, "--rubric-good", "kind"]) == SettingsError.exit_code
    assert "A/B critic" in capsys.readouterr().err
