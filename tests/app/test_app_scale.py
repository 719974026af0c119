"""`rung scale` and `rung collect` from the real command line, with a scripted base model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import rung.app.cli as cli
from rung.base.files import read_json
from rung.records.manifest import open_manifest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from pipeline_script import ScriptedModels
from scripted_worker import open_scripted

CRITIC = {"kind": "information_gain", "shrinkage": 0.0}
STAGES = [
    {"calibrate": {"critics": [CRITIC], "limits": {"mandated": ["empty"], "num_resamples": 100}}},
    {"bootstrap": {"name": "pilot", "count": 24, "critic_threshold": 0.2, "thresholds": {"max_repeats": 9}}},
]
MORE = ["--set", "data-40x3.most_repeats=0.6", "--set", "budget.price_per_hour=3", "--allow-dirty", "--quiet"]


def without_models(patched: pytest.MonkeyPatch) -> None:
    """No model is loaded anywhere."""
    patched.setattr("os.fsync", lambda descriptor: None)
    patched.setattr("rung.app.running.LateModels", ScriptedModels)
    patched.setattr("rung.app.running.identify_model", lambda source: "m0")
    for stage in ("bootstrap", "calibrate"):
        patched.setattr(f"rung.pipeline.stages.{stage}.open_engine", open_scripted)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and the run of a pilot that passed."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump({"run": "r", "model": "tiny:llama", "seed": 3, "stages": STAGES})
    )
    with pytest.MonkeyPatch.context() as patched:
        without_models(patched)
        patched.chdir(folder)
        assert cli.execute(["run", "recipe.yaml", "--allow-dirty", "--quiet"]) == 0
    return folder


@pytest.fixture
def pilot(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The manifest of a pilot that passed, in the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    without_models(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return Path("runs/r/pilot/manifest.json")


def scale(pilot: Path, *more: str, count: int = 40) -> int:
    line = f"scale --pilot-manifest {pilot} --count {count} --num-shards 3 --output out/data.jsonl"
    return cli.execute([*line.split(), *more])


def test_a_pilot_becomes_a_large_run_with_its_files(pilot: Path) -> None:
    assert scale(pilot, *MORE) == 0
    rows = [json.loads(line) for line in Path("out/data.jsonl").read_text().splitlines()]
    merged, data = (open_manifest(Path("runs/r") / name) for name in ("data-40x3", "scale-40x3"))
    assert [row["id"] for row in rows] == [record.id for record in merged.records("sft")]
    assert data.count("sft") == 40
    assert data.manifest.settings["critic_threshold"] == 0.2
    found = [read_json(path) for path in sorted(Path("out/data_shards").glob("shard_*/summary.json"))]
    assert [one["shard"] for one in found] == [0, 1, 2]
    assert len({one["seed"] for one in found}) == 3
    assert [one["files"]["sft"]["count"] for one in found] == [14, 13, 13]
    assert all("verdict" in one["qc"] or one["qc"] for one in found)
    text = Path("out/data_README.md").read_text()
    assert "## Actual" in text
    assert re.search(r"\| seconds \| [\d.e-]+ \| [\d.e-]+ \| [+-]\d+ % \|", text)
    assert "kept records a minute, between" in text
    assert {"seconds_error_percent", "tokens_error_percent", "money_error_percent"} <= set(data.manifest.estimate)


def test_the_readme_is_there_before_the_run_and_its_command_runs(pilot: Path, capsys: Any) -> None:
    assert scale(pilot, *[word for word in MORE if word != "--quiet"], "--dry-run") == 0
    text = Path("out/data_README.md").read_text()
    assert not Path("runs/r/scale-40x3").exists()
    assert "by the clock: " in text
    assert "at 3 an hour" in text
    assert "- scale-40x3: not finished" in text
    command = shlex.split(re.search(r"```\n(rung scale .*)\n```", text)[1])
    assert cli.execute(command[1:]) == 0
    assert len(Path("out/data.jsonl").read_text().splitlines()) > 0
    assert cli.execute(command[1:]) == 0  # again: everything is finished
    assert "nothing to do" in capsys.readouterr().out


def test_the_recipe_beside_the_output_is_the_same_run(pilot: Path) -> None:
    assert scale(pilot, *MORE) == 0
    before = open_manifest(Path("runs/r/data-40x3")).manifest
    assert cli.execute(["run", "out/data.recipe.yaml", *MORE]) == 0
    assert open_manifest(Path("runs/r/data-40x3")).manifest == before


def test_more_responses_are_passed_through_and_only_they_cost_more(pilot: Path) -> None:
    tokens = []
    for best in ((), ("--best-of-n", "1"), ("--best-of-n", "3")):
        assert scale(pilot, "--allow-dirty", "--quiet", "--dry-run", *best) == 0
        found = re.search(r"- tokens: ([\d,]+)", Path("out/data_README.md").read_text())
        tokens.append(int(found[1].replace(",", "")))
    assert tokens[0] == tokens[1] < tokens[2] < 3 * tokens[0]
    recipe = yaml.safe_load(Path("out/data.recipe.yaml").read_text())
    assert recipe["stages"][2]["bootstrap"]["num_candidates"] == 3
    assert "responses.num_candidates: 3" in Path("out/data_README.md").read_text()


@pytest.mark.parametrize("what", ["verdict", "records", "kind"])
def test_a_pilot_that_does_not_hold_is_refused(pilot: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    if what == "verdict":
        values = read_json(pilot)
        pilot.write_text(json.dumps({**values, "outcome": "gate_failed"}))
    elif what == "records":
        shard = next(Path("runs/r/pilot").glob("sft-*.zst"))
        shard.write_bytes(shard.read_bytes() + b"x")
    else:
        pilot = Path("runs/r/calibrate/manifest.json")
    assert scale(pilot, *MORE) == {"verdict": 4, "records": 3, "kind": 2}[what]
    assert not Path("runs/r/scale-40x3").exists()
    assert not Path("out/data.jsonl").exists()


def test_two_machines_and_one_merge_give_the_same_file_as_one(pilot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale(pilot, *MORE, "--dry-run") == 0
    for name in ("one", "two"):
        shutil.copytree("runs", name)
    assert scale(pilot, *MORE) == 0
    expected = Path("out/data.jsonl").read_bytes()
    run = ["run", "out/data.recipe.yaml", *MORE]
    assert cli.execute([*run, "--runs", "one", "--shards", "scale-40x3=0,2"]) == 11
    assert cli.execute([*run, "--runs", "two", "--shards", "scale-40x3=1"]) == 11
    assert cli.execute(["collect", "r/scale-40x3", "two/r", "--runs", "one"]) == 0
    assert "4 files taken, 0 were here already" in capsys.readouterr().out
    assert cli.execute(["collect", "r/scale-40x3", "two/r", "--runs", "one"]) == 0  # once more changes nothing
    assert cli.execute([*run, "--runs", "one"]) == 0
    for stage in ("scale-40x3", "data-40x3"):
        ours, theirs = (open_manifest(Path(runs) / "r" / stage).manifest for runs in ("runs", "one"))
        assert ours.shards == theirs.shards
        assert ours.calibration == theirs.calibration
    spent = open_manifest(Path("one/r/scale-40x3")).manifest.spend
    assert spent["tokens"] == open_manifest(Path("runs/r/scale-40x3")).manifest.spend["tokens"]
    assert expected


@pytest.mark.parametrize("what", ["settings", "bytes", "model", "nothing"])
def test_what_was_not_made_from_the_same_is_not_taken(
    pilot: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scale(pilot, *MORE, "--dry-run") == 0
    for name in ("one", "two"):
        shutil.copytree("runs", name)
    run = ["run", "out/data.recipe.yaml", *MORE]
    other = ["--set", "scale-40x3.max_rounds=5"] if what == "settings" else []
    assert cli.execute([*run, "--runs", "one", "--shards", "scale-40x3=0"]) == 11
    if what != "nothing":
        assert cli.execute([*run, *other, "--runs", "two", "--shards", "scale-40x3=1"]) == 11
    theirs = Path("two/r/scale-40x3")
    if what == "bytes":
        shard = theirs / "sft-0001.jsonl.zst"
        shard.write_bytes(shard.read_bytes() + b"x")
    if what == "model":
        notes = theirs / ".work" / "notes.json"
        notes.write_text(notes.read_text().replace('"clean"', '"other"'))
    assert cli.execute(["collect", "r/scale-40x3", "two/r", "--runs", "one"]) == (
        6 if what in ("settings", "model") else 3
    )
    told = capsys.readouterr().err
    assert {"settings": "other settings", "bytes": "not what its maker says", "model": "verdict",
            "nothing": "no unfinished work"}[what] in told  # fmt: skip


def test_shards_that_cannot_be_read_are_named(pilot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("pilot", "pilot=x", "pilot=3-1", "pilot=1-"):
        assert cli.execute(["run", "recipe.yaml", "--allow-dirty", "--shards", text]) == 2
        assert text in capsys.readouterr().err
    assert cli.execute(["run", "recipe.yaml", "--allow-dirty", "--shards", "pilto=0"]) == 2
    assert "did you mean 'pilot'" in capsys.readouterr().err
