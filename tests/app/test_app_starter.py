"""What `rung new` writes: the quickstart's whole ladder with comments, and a plan for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rung.app.cli import execute
from rung.pipeline.recipe import load

ROOT = Path(__file__).parents[2]


def test_the_starter_is_the_quickstarts_ladder_and_plans(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "mine.yaml"
    assert execute(["new", str(path)]) == 0
    mine, quickstart = load(path), load(ROOT / "recipes" / "quickstart.yaml")
    assert [(spec.name, spec.kind) for spec in mine.stages] == [(spec.name, spec.kind) for spec in quickstart.stages]
    assert mine.spec("evaluate").settings["suite"] == mine.spec("probe").settings["suite"]
    capsys.readouterr()
    assert execute(["plan", str(path), "--set", "model=tiny:llama", "--runs", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert all(spec.name in shown for spec in mine.stages)
    assert "a run would stop" not in shown


def test_every_stage_of_the_starter_is_explained_and_its_profile_is_smaller(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    execute(["new", str(path)])
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("  - "):
            assert lines[number - 1].lstrip().startswith("#"), line
    small = load(path, profile="dev")
    assert small.spec("scale").settings["count"] < load(path).spec("scale").settings["count"]
    assert small.spec("evaluate").settings["suite"] == small.spec("probe").settings["suite"]
