"""`rung sweep`: a run for every combination, wrong values told first, bad endings that stop nobody (item 207)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import rung.app.cli as cli
from rung.app.choices import Choices
from rung.app.sweep import load_sweep
from rung.base.errors import GateFailed, SettingsError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus, a recipe for it, and an empty cache."""
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    lines = [json.dumps({"text": f"Text number {number} " + "x" * 40 * number}) for number in range(8)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n")
    corpus = {
        "sources": [{"kind": "files", "path": str(tmp_path / "texts.jsonl")}], "near": {"similarity": 1.0},
        "clear_of": [],
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"run": "small", "stages": [{"corpus": corpus}]}))
    return tmp_path


def write(folder: Path, **said: object) -> Path:
    path = folder / "least.yaml"
    path.write_text(yaml.safe_dump({"recipe": "recipe.yaml", **said}))
    return path


def run(folder: Path, path: Path) -> tuple[BaseException | None, str]:
    result = CliRunner().invoke(cli.app, ["sweep", str(path), "--runs", str(folder / "runs"), "--allow-dirty"])
    return result.exception, result.output


def test_every_combination_is_a_run_of_its_own_and_a_bad_ending_stops_nobody(folder: Path) -> None:
    over = {"corpus.min_documents": [1, 100], "seed": [1, 2]}
    path = write(folder, over=over, show=["corpus.num_documents", "corpus.gate.nothing"])
    error, _ = run(folder, path)
    assert isinstance(error, GateFailed)
    recipes = [json.loads((folder / f"runs/small-{n}/recipe.json").read_text()) for n in (1, 2, 3, 4)]
    assert [one["seed"] for one in recipes] == [1, 2, 1, 2]
    rows = [line for line in (folder / "runs/least.md").read_text().splitlines() if line.startswith("| small-")]
    assert rows[0] == "| small-1 | 1 | 1 | done | 8 | - |"
    assert rows[3] == "| small-4 | 100 | 2 | GateFailed | 8 | - |"
    before = (folder / "runs/small-1/corpus/manifest.json").stat().st_mtime_ns
    run(folder, path)
    assert (folder / "runs/small-1/corpus/manifest.json").stat().st_mtime_ns == before


def test_a_wrong_value_is_told_before_the_first_run(folder: Path) -> None:
    path = write(folder, over={"corpus.min_documents": [1, -3]})
    with pytest.raises(SettingsError, match="small-2"):
        load_sweep(path, Choices(runs=folder / "runs"))
    error, _ = run(folder, path)
    assert isinstance(error, SettingsError)
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("said", "match"),
    [({"over": {}}, "over"), ({"over": {"seed": []}}, "no values"), ({"over": {"seed": [1]}, "shown": []}, "shown")],
)
def test_broken_sweeps_are_refused(folder: Path, said: dict[str, object], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        load_sweep(write(folder, **said), Choices(runs=folder / "runs"))


def test_the_shipped_sweep_resolves() -> None:
    found = load_sweep(Path("recipes/sweeps/pretrain.yaml"), Choices())
    assert len(found.variants) == 6
    settings = [one.recipe.stages[3].stage.settings.training for one in found.variants]
    assert [s.learning_rate for s in settings[:3]] == [1e-3, 2e-3, 4e-3]
    assert settings[5].optimizer == "muon"
