"""What one stage made is gone on with by the next: a network that this run pretrained and tuned is probed, evaluated,
rewarded and preferred; whole weights and adapters are trained on."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import test_pipeline_dpo as aligned
import test_pipeline_grpo as rewarded
import test_pipeline_pretrain as pretrained
import torch
import yaml
from pipeline_toys import CLEAN

from rung.app.models_keeper import ModelsKeeper
from rung.base.errors import DataError, SettingsError
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import Loaded, load
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.stages._answering import answer_items
from rung.records.manifest import Opened, open_manifest

SUITE = {"suite": {"kind": "instruction_following", "count": 12}, "max_new_tokens": 4}
TRAINING = {**aligned.TRAINING, "eval_fraction": 0.0}
SHORT = {"num_steps": 2, "eval_interval": 2, "group_size": 16, "keep": "last", "truncated": "as_is"}
FORCED = frozenset({"probe", "evaluate", "evaluated", "grpo", "whole", "dpo"})


def rollouts(name: str, model: str, **adapter: Any) -> dict[str, Any]:
    """A few updates by rewards."""
    few = {"pilot": {"num_prompts": 4, "least_mixed": 0.0}, "exam": {"num_items": 8}, "training": SHORT}
    return rewarded.stage(name=name, model=model, adapter=adapter, **few)


def preferences(model: str) -> list[dict[str, Any]]:
    """Pairs, and training on them."""
    held = {**aligned.TRAINING, "eval_fraction": 0.2, "eval_interval": 6}
    adapter = {"rank": 4, "targets": ["q_proj"]}
    return [
        {"pairs": {"data": "data", "negatives": {"per_record": 0}}},
        {"dpo": {"model": model, "data": "pairs", "num_answers": 2, "adapter": adapter, "training": held}},
    ]


def from_text(data: Path) -> list[dict[str, Any]]:
    """From a corpus to everything that can be done with the network it made."""
    return [
        *pretrained.stages(data),
        {"test_pipeline_dpo:ToyData": {"name": "data", "count": 40}},
        {"probe": {"model": "pretrain", **SUITE}},
        {"sft": {"name": "tuned", "model": "pretrain", "data": "data", "adapter": {"kind": "none"},
                 "training": TRAINING}},
        {"evaluate": {"model": "tuned", **SUITE}},
        rollouts("grpo", "tuned", rank=4, targets=["q_proj"]),
        rollouts("whole", "grpo", kind="none"),
        *preferences("whole"),
        {"evaluate": {"name": "evaluated", "label": "dpo", "model": "dpo", **SUITE}},
    ]  # fmt: skip


def go(folder: Path, stages: list[dict[str, Any]], model: str = "", loader: Any = load) -> RunResult:
    path = folder / "recipe.yaml"
    named = {"model": model} if model else {}
    path.write_text(yaml.safe_dump({"run": "r", "seed": 3, **named, "stages": stages}))
    recipe = recipes.load(path)
    keeper = ModelsKeeper(functools.partial(loader, precision="float32"))
    forced = FORCED & {spec.name for spec in recipe.stages}
    return run(recipe, folder / "runs", keeper, Options(code=CLEAN, force=forced))


def output(folder: Path, name: str) -> Opened:
    opened = open_manifest(folder / "runs/r" / name)
    opened.verify()
    return opened


def network_of(folder: Path, stage: str) -> Loaded:
    return load(f"run:{folder / 'runs/r' / stage}", precision="float32", clean=False, strict=False)


def changed(folder: Path, before: str, after: str) -> set[str]:
    """Names of the weights in which two stages' networks differ."""
    first, second = (network_of(folder, name).network.state_dict() for name in (before, after))
    assert first.keys() == second.keys()
    return {name for name, weight in first.items() if not torch.equal(weight, second[name])}


ASKED: list[tuple[str, dict[str, Any]]] = []


def noting(source: str, **keywords: Any) -> Any:
    """The loader, and how it was asked."""
    ASKED.append((source, keywords))
    return load(source, **keywords)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made_here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_CACHE", str(folder / "cache"))
        patch.setattr("os.fsync", lambda descriptor: None)
        result = go(folder, from_text(pretrained.write_corpus(folder / "data")), loader=noting)
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    return folder


@pytest.mark.parametrize(("stage", "maker", "name"), [
    ("probe", "pretrain", "framed"), ("evaluate", "tuned", "answer"), ("evaluated", "dpo", "answer"),
])  # fmt: skip
def test_it_is_the_published_network_that_answers(done: Path, stage: str, maker: str, name: str) -> None:
    manifest = output(done, stage).manifest
    engine = Engine(network_of(done, maker), EngineSettings(num_slots=4))
    items = list(output(done, stage).records("item"))
    said = answer_items(engine, items, "framed", 4, manifest.seeds["stage"])
    assert [one.text for one in output(done, stage).records(name)] == [one.text for one in said]
    assert manifest.model["source"] == f"run:../{maker}"


def test_each_training_goes_on_from_the_network_of_the_one_before(done: Path) -> None:
    assert changed(done, "pretrain", "tuned") == set(network_of(done, "tuned").network.state_dict())
    for before, after in (("tuned", "grpo"), ("whole", "dpo")):
        names = changed(done, before, after)
        assert names
        assert all("q_proj" in name for name in names), "the adapter's share alone"
    assert any("q_proj" not in name for name in changed(done, "grpo", "whole"))
    for name in ("tuned", "grpo", "whole", "dpo"):
        assert {file.role for file in output(done, name).manifest.files} == {"model"}
    assert output(done, "grpo").manifest.figures["base_unchanged"]
    assert output(done, "dpo").manifest.figures["reference_unchanged"]


def test_nothing_is_guarded_that_this_run_made_and_nothing_rounded_that_is_published_again(done: Path) -> None:
    assert {source.partition(":")[0] for source, _ in ASKED} == {"dir"}
    assert all((how["clean"], how["strict"]) == (False, False) for _, how in ASKED)
    assert len(ASKED) >= 6


def test_no_manifest_names_a_path_of_this_machine(done: Path) -> None:
    for path in (done / "runs/r").glob("*/manifest.json"):
        model = json.loads(path.read_text())["model"]
        assert str(done) not in json.dumps(model), path.parent.name


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a recipe's model: every weight trained and then preferences over it, and an adapter trained on twice."""
    folder = tmp_path_factory.mktemp("tuned")
    first = {"data": "data", "training": TRAINING}
    stages = [
        {"test_pipeline_dpo:ToyData": {"name": "data", "count": 40}},
        {"sft": {"name": "all", **first, "adapter": {"kind": "none"}}},
        *preferences("all"),
        {"sft": {"name": "one", **first, "adapter": {"rank": 4}}},
        {"sft": {"name": "two", **first, "model": "one", "adapter": {"rank": 2}}},
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_CACHE", str(folder / "cache"))
        patch.setattr("os.fsync", lambda descriptor: None)
        result = go(folder, stages, model="tiny:llama")
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    return folder


def test_preferences_are_trained_over_whole_weights_and_published_as_such(tuned: Path) -> None:
    found = output(tuned, "dpo").manifest
    assert [file.role for file in found.files] == ["weights"]
    assert found.figures["reference_unchanged"]
    assert found.figures["final_loss"] < found.figures["first_loss"]
    names = changed(tuned, "all", "dpo")
    assert names
    assert all("q_proj" in name for name in names)


def test_an_adapter_is_tuned_on_under_a_fresh_one_and_their_sum_published(tuned: Path) -> None:
    one, two = (output(tuned, name).manifest for name in ("one", "two"))
    assert two.figures["first_loss"] < one.figures["first_loss"] - 0.1, "it begins where the first one ended"
    assert two.figures["base_unchanged"]
    assert [file.role for file in two.files] == ["adapter", "adapter"]
    config = json.loads((tuned / "runs/r/two/adapter/adapter_config.json").read_text())
    assert config["r"] == 4 + 2


@pytest.mark.parametrize(("stage", "kind", "words"), [
    ({"name": "x1", "model": "all", "data": "data", "adapter": {"quantise": "if_usable"}}, SettingsError, "in 4 bits"),
    ({"name": "x2", "model": "one", "data": "data", "adapter": {"dropout": 0.1}}, SettingsError, "a plain LoRA"),
    ({"name": "x3", "model": "data", "data": "data"}, DataError, "made no model"),
])  # fmt: skip
def test_what_cannot_be_gone_on_with_is_refused(tuned: Path, stage: dict[str, Any], kind: type, words: str) -> None:
    made = yaml.safe_load((tuned / "recipe.yaml").read_text())["stages"][:6]
    result = go(tuned, [*made, {"sft": stage}], model="tiny:llama")
    assert isinstance(result.error, kind)
    assert words in str(result.error)
