"""From stories to a tuned story model in one run: recipes/pretrain.yaml on a tiny scale (items 176, 222)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pipeline_toys import CLEAN

from rung.app.models_keeper import ModelsKeeper
from rung.base.errors import RungError
from rung.models.load import load
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.stages._writing import Pen
from rung.pipeline.stages.evaluate_stories import EvaluateStories, EvaluateStoriesSettings
from rung.records.chat.asking import Asking
from rung.records.chat.frame import Frame
from rung.records.manifest import Opened, open_manifest
from story_script import script

FACTS = {"source": "tiny:teller", "report": {"verdict": "contaminated", "model_name": "teller", "loader_version": "1"}}
TRAINING = {"epochs": 12, "sequences_per_step": 8, "max_tokens": 64, "learning_rate": 1e-2, "eval_interval": 40}
EXAM = {
    "models": {"pretrained": "pretrain", "tuned": "tuned"}, "corpus": "corpus", "reader": "tiny:llama",
    "num_openings": 3, "num_requests": 4, "copies": 2, "max_new_tokens": 40,
}  # fmt: skip


def stages(adapter: str = "none", **exam: Any) -> list[dict[str, Any]]:
    return [
        {"stories": {"count": 60, "shards": 2, "instruct": True}},
        {"corpus": {"of": ["stories"], "clear_of": [], "near": {"similarity": 1.0}}},
        {"tokenizer": {"corpus": "corpus", "trainer": {"vocabulary": 400}, "held_out": 0.1}},
        {"tokens": {"corpus": "corpus", "tokenizer": "tokenizer", "held_out": 0.1}},
        {"pretrain": {"tokens": "tokens", "network": {"size": "tiny"}, "training": TRAINING,
                      "samples": {"max_new_tokens": 8}}},
        {"make_instructions": {"name": "tasks", "data": "corpus", "pairs": {"per_document": 2}}},
        {"sft": {
            "name": "tuned", "model": "pretrain", "data": "tasks", "adapter": {"kind": adapter, "targets": ["q_proj"]},
            "training": {"epochs": 2, "learning_rate": 3e-3, "sequences_per_step": 8},
        }},
        {"evaluate_stories": {**EXAM, **exam}},
    ]  # fmt: skip


def go(folder: Path, chosen: list[dict[str, Any]]) -> RunResult:
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump({"run": "r", "model": "tiny:llama", "seed": 3, "stages": chosen}))
    return run(recipes.load(path), folder / "runs", ModelsKeeper(), Options(code=CLEAN))


def output(folder: Path, name: str) -> Opened:
    opened = open_manifest(folder / "runs/r" / name)
    opened.verify()
    return opened


def open_pen(context: Any, outputs: Any, settings: Any) -> Pen:
    """A scripted writer."""
    outputs.note("model", FACTS)
    return Pen(script(), Asking(settings.prompt), FACTS)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("told")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_CACHE", str(folder / "cache"))
        patch.setattr("rung.pipeline.stages.stories.open_pen", open_pen)
        result = go(folder, stages())
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    return folder


def test_the_tuned_network_is_the_pretrained_one_trained_on(done: Path) -> None:
    before, after = (
        load(f"dir:{done / 'runs/r' / name / 'model'}", precision="float32", clean=False, strict=False)
        for name in ("pretrain", "tuned")
    )
    assert before.tokenizer.encode("The dog ran.") == after.tokenizer.encode("The dog ran.")
    assert not torch.equal(before.network.output_weight, after.network.output_weight)
    figures = output(done, "tuned").manifest.figures
    assert figures["final_loss"] < figures["first_loss"]


def test_an_adapter_on_a_network_made_here_is_merged_and_published_whole(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNG_CACHE", str(done / "cache"))
    monkeypatch.setattr("rung.pipeline.stages.stories.open_pen", open_pen)
    assert go(tmp_path, stages("lora")[:7]).exit_code == 0
    whole = load(f"run:{tmp_path / 'runs/r/tuned'}", precision="float32", clean=False, strict=False)
    base = load(f"run:{tmp_path / 'runs/r/pretrain'}", precision="float32", clean=False, strict=False)
    changed = [
        name
        for name, weight in whole.network.state_dict().items()
        if not torch.equal(weight, base.network.state_dict()[name])
    ]
    assert changed
    assert all("q_proj" in name for name in changed)


def test_every_network_tells_the_same_prompts_and_all_is_counted(done: Path) -> None:
    opened = output(done, "evaluate_stories")
    told = list(opened.records("told"))
    assert len(told) == 2 * (3 + 4) * 2
    asked = [[one.meta["asked"] for one in told if one.source == name] for name in ("pretrained", "tuned")]
    assert asked[0] == asked[1]
    found = EvaluateStories(EvaluateStoriesSettings(**EXAM)).figures(opened)
    assert not any(Frame.delimiter.strip() in one.text for one in told), "the frame is no part of a story"
    for row in found["rows"].values():
        assert row["without_fault"]["n"] == 14
        assert row["words_used"]["n"] == 8
        assert row["keeps_to_hero"]["n"] == 6
        assert row["bits_per_byte"]["mean"] > 0
        assert 0 <= row["unseen"]["mean"] <= 1


def test_a_tuned_model_that_is_not_better_where_it_should_be_is_refused(done: Path) -> None:
    stage = EvaluateStories(EvaluateStoriesSettings(**EXAM, better=("pretrained", "pretrained2")))
    with pytest.raises(RungError, match="no model is called 'pretrained2'"):
        stage.check(None)  # type: ignore[arg-type]
    same = EvaluateStories(EvaluateStoriesSettings(**EXAM, better=("tuned", "tuned")))
    verdict = same.gate(same.figures(output(done, "evaluate_stories")))
    assert not verdict.passed
    assert "does not surely use more" in verdict.reasons[0]


def test_a_validator_that_remembers_is_no_judge_of_single_stories() -> None:
    stage = EvaluateStories(EvaluateStoriesSettings(**EXAM, validators=("near_copies",)))
    with pytest.raises(RungError, match="judges a story by the ones before it"):
        stage.check(None)  # type: ignore[arg-type]
