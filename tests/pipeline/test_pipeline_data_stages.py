"""Calibrate, pilot, scale and merge with a scripted model: the data path end to end, without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline_script import ScriptedModels, script
from pipeline_toys import CLEAN

from rung.base.errors import GateFailed
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options, RunResult, run
from rung.records.manifest import Opened, open_manifest
from rung.records.scripted import Scripted

CRITIC = {"kind": "information_gain", "shrinkage": 0.0}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Scripted]:
    """Scripted engines in place of the engine; the list grows by one with every stage that opens one."""
    opened: list[Scripted] = []

    def open_engine(context: Any, outputs: Any, settings: Any, trained: Any = None) -> Scripted:
        outputs.note("model", {"report": {"verdict": "clean"}})
        opened.append(script())
        return opened[-1]

    for stage in ("bootstrap", "calibrate"):
        monkeypatch.setattr(f"rung.pipeline.stages.{stage}.open_engine", open_engine)
    return opened


def ladder(**changes: Any) -> list[dict[str, Any]]:
    pilot = {"name": "pilot", "count": 24, "critic_threshold": 0.2, **changes}
    return [
        {"calibrate": {"critics": [CRITIC], "limits": {"mandated": ["empty"], "num_resamples": 100}}},
        {"bootstrap": pilot},
        {"bootstrap": {"name": "scale", "settings_from": "pilot", "count": 50, "shards": 3}},
        {"merge": {"name": "data", "of": "scale", "most_repeats": 0.5}},
    ]


def go(folder: Path, stages: list[dict[str, Any]], **options: Any) -> RunResult:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"run": "r", "model": "tiny:llama", "seed": 3, "stages": stages}))
    return run(recipes.load(path), folder / "runs", ScriptedModels(), Options(code=CLEAN, **options))


def output(folder: Path, stage: str) -> Opened:
    return open_manifest(folder / "runs" / "r" / stage)


@pytest.fixture
def done(tmp_path: Path, asked: list[Scripted]) -> Path:
    result = go(tmp_path, ladder())
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    return tmp_path


def test_count_means_kept_records(done: Path) -> None:
    assert output(done, "pilot").count("sft") == 24
    assert output(done, "scale").count("sft") == 50
    assert [s.count for s in output(done, "scale").manifest.shards["sft"]] == [17, 17, 16]


def test_everything_kept_was_accepted_and_comes_from_the_model(done: Path) -> None:
    for record in output(done, "pilot").records("sft"):
        assert record.source == "model"
        assert record.pair_critique.accepted
        assert "Bananas" not in record.response
        assert record.metadata["git_commit"] == CLEAN.commit or record.metadata["git_commit"]
        assert record.completion.startswith(" People often notice")


def test_the_stored_prompts_are_the_ones_that_were_sent(done: Path, asked: list[Scripted]) -> None:
    sent = {request.text for request in asked[1].requests}
    stored = {candidate.prompt for candidate in output(done, "pilot").records("candidate")}
    assert stored <= sent
    assert all(prompt.endswith("Response:") for prompt in stored)


def test_what_was_rejected_is_kept_for_the_figures(done: Path) -> None:
    opened = output(done, "pilot")
    candidates = list(opened.records("candidate"))
    rejected = [c for c in candidates if c.outcome == "rejected"]
    assert rejected
    assert all("Bananas" in c.response for c in rejected)
    qc = opened.manifest.figures["qc"]
    assert qc["counts"]["generated"] == len(candidates)
    assert qc["counts"]["rejected"] == len(rejected)


def test_scale_takes_its_settings_from_the_pilot(done: Path) -> None:
    manifest = output(done, "scale").manifest
    assert manifest.settings["critic_threshold"] == 0.2
    assert manifest.origins["critic_threshold"] == "from pilot"
    assert manifest.settings["count"] == 50


def test_shards_have_their_own_seeds(done: Path) -> None:
    seeds = output(done, "scale").manifest.seeds
    assert len({seeds[f"shard_{n}"] for n in range(3)}) == 3


def test_the_union_is_counted_and_the_shards_stay(done: Path) -> None:
    data = output(done, "data")
    rows = data.manifest.figures["shards"].values()
    assert sum(row["records"] for row in rows) == 50
    assert data.count("sft") == sum(row["kept"] for row in rows)
    instructions = [record.instruction for record in data.records("sft")]
    assert len(set(instructions)) == len(instructions)
    output(done, "scale").verify()


def test_the_same_seed_gives_the_same_data(done: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("again")
    assert go(other, ladder()).exit_code == 0
    for stage in ("pilot", "scale", "data"):
        ours, theirs = (output(place, stage).manifest.shards for place in (done, other))
        assert ours == theirs


def test_without_a_critic_that_may_gate_nothing_is_made(tmp_path: Path, asked: list[Scripted]) -> None:
    stages = ladder()
    stages[0]["calibrate"]["limits"] = {"mandated": ["shuffled"], "num_resamples": 100, "least_auc": 0.99}
    result = go(tmp_path, stages)
    assert result.exit_code == GateFailed.exit_code
    assert "no critic may gate" in str(result.error)
    assert [s.outcome for s in result.stages] == ["gate_failed", "not_started", "not_started", "not_started"]


def test_a_pilot_that_fails_qc_stops_the_scale_run(tmp_path: Path, asked: list[Scripted]) -> None:
    result = go(tmp_path, ladder(thresholds={"min_pair_acceptance": 0.99}))
    assert result.exit_code == GateFailed.exit_code
    assert "min_pair_acceptance" in str(result.error)
    assert not (tmp_path / "runs" / "r" / "scale").exists()


def test_a_shortfall_is_stated_and_fails(tmp_path: Path, asked: list[Scripted]) -> None:
    result = go(tmp_path, ladder(critic_threshold=50.0, max_rounds=2))
    assert result.exit_code == GateFailed.exit_code
    assert "0 of 24 records were kept" in str(result.error)


def test_early_abort_needs_the_switch_and_evidence(tmp_path: Path, asked: list[Scripted]) -> None:
    progress = {"every": 20, "abort": True, "min_samples": 15}
    bad = {"critic_threshold": 50.0, "max_rounds": 4, "shards": 2}
    result = go(tmp_path, ladder(progress=progress, **bad))
    assert "running QC after 20" in str(result.error)


def test_an_edited_verdict_is_refused(done: Path) -> None:
    path = done / "runs" / "r" / "pilot" / "manifest.json"
    values = json.loads(path.read_text())
    values["figures"]["qc"]["counts"]["kept"] = 99
    path.write_text(json.dumps(values))
    shutil.rmtree(done / "runs" / "r" / "scale")
    result = go(done, ladder())
    assert result.exit_code != 0
    assert "pilot" in str(result.error)


def test_a_heuristic_that_fails_its_labelled_examples_only_flags(
    done: Path, asked: list[Scripted], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Spec item 75: with a floor that none of them reaches, no filter of a heuristic drops anything."""
    assert output(done, "pilot").manifest.calibration["advisory"] == {}
    other = tmp_path_factory.mktemp("weak")
    strict = [{"kind": "instruction_sanity", "max_words": 3}, "near_duplicates"]  # would drop every instruction
    assert go(other, ladder(heuristics={"min_examples": 1000}, instruction_filters=strict)).exit_code == 0
    found = output(other, "pilot").manifest.calibration["advisory"]
    assert set(found) == {"runaway", "incomplete", "repetition", "echo", "scope", "garbage", "unfit"}
    assert output(other, "pilot").count("sft") == 24
