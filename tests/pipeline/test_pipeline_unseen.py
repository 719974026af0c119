"""Ways of asking that are never trained on, measured at each evaluation of tuning (item 229)."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml
from pipeline_toys import CLEAN

from rung.app.models_keeper import ModelsKeeper
from rung.base.errors import GateFailed, SettingsError
from rung.models.load import load
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.stages import make_instructions
from rung.pipeline.stages._writing import Pen
from rung.pipeline.stages.sft import Sft
from rung.records.chat.asking import Asking
from rung.records.chat.frame import Frame
from rung.records.manifest import Opened, open_manifest
from rung.records.packing import Example
from rung.records.token_shards import is_held_out
from rung.records.types import SftRecord
from rung.train.adapters import attach_adapter
from rung.train.loop import loss_on
from rung.train.settings import SftSettings
from story_script import script

FACTS = {"source": "tiny:teller", "report": {"verdict": "clean", "model_name": "teller", "loader_version": "1"}}
UNSEEN = {"kinds": ["gist"], "styles": ["terse", "child"], "documents": 0.3, "min_records": 5}
TRAINING = {"epochs": 1, "sequences_per_step": 16, "eval_interval": 2, "learning_rate": 1e-2}
SFT = {"data": "tasks", "unseen": "tasks", "training": TRAINING, "adapter": {"rank": 4}}


@pytest.fixture(autouse=True)
def pens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scripted writer."""
    monkeypatch.setattr("rung.pipeline.stages.stories.open_pen", open_pen)


def open_pen(context: Any, outputs: Any, settings: Any) -> Pen:
    outputs.note("model", FACTS)
    return Pen(script(), Asking(settings.prompt), FACTS)


def go(folder: Path, *more: dict[str, Any], **settings: Any) -> RunResult:
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    tasks = {"name": "tasks", "data": "stories", "pairs": {"per_document": 2, "multi_turn": 0.3}, **settings}
    stages = [{"stories": {"count": 60, "shards": 2}}, {"make_instructions": tasks}, *more]
    path.write_text(yaml.safe_dump({"run": "r", "model": "tiny:llama", "seed": 3, "stages": stages}))
    return run(recipes.load(path), folder / "runs", ModelsKeeper(), Options(code=CLEAN))


def output(folder: Path, name: str = "tasks") -> Opened:
    return open_manifest(folder / "runs" / "r" / name)


def made(record: SftRecord) -> dict[str, Any]:
    return dict(record.metadata["instruction"])


def metrics(folder: Path, name: str) -> list[tuple[int, float]]:
    lines = (folder / "runs/r/events.jsonl").read_text().splitlines()
    found = [event for line in lines if (event := json.loads(line)).get("name") == name and event["kind"] == "metric"]
    return [(event["step"], event["value"]) for event in found]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unseen")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rung.pipeline.stages.stories.open_pen", open_pen)
        follow = {"suite": {"kind": "instruction_following", "count": 4}, "max_new_tokens": 2}
        result = go(folder, {"sft": {**SFT, "follow": follow}}, unseen=UNSEEN)
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    return folder


def test_there_are_ways_of_asking_that_were_never_trained_on(done: Path) -> None:
    opened = output(done)
    trained, measured = list(opened.records("sft")), list(opened.records("unseen"))
    assert not [r for r in trained if "gist" in made(r)["kinds"] or made(r)["style"] in UNSEEN["styles"]]
    for record in measured:
        new_kind, new_style = "gist" in made(record)["kinds"], made(record)["style"] in UNSEEN["styles"]
        assert new_kind != new_style, "one new thing at a time"
    counts = Counter("gist" in made(record)["kinds"] for record in measured)
    assert min(counts[True], counts[False]) >= 5
    assert {made(record)["style"] for record in trained} == {"plain", "polite", "brief", "conversation"}
    figures = opened.manifest.figures
    assert figures["qc"]["unseen"]["count"] == len(measured)
    assert not [gap for gap in figures["distribution"]["gaps"] if "gist" in gap or "terse" in gap]


def test_their_texts_are_not_trained_on_either_and_pretraining_can_leave_out_the_same(done: Path) -> None:
    opened = output(done)
    trained, measured = ({made(r)["document"] for r in opened.records(name)} for name in ("sft", "unseen"))
    assert not trained & measured
    assert all(is_held_out(document, UNSEEN["documents"]) for document in measured)
    assert not any(is_held_out(document, UNSEEN["documents"]) for document in trained)


def test_the_loss_on_them_is_measured_at_each_evaluation_beside_what_is_followed(done: Path) -> None:
    loss, unseen = metrics(done, "sft/held_out_loss"), metrics(done, "sft/held_out_unseen_loss")
    assert [step for step, _ in unseen] == [step for step, _ in loss]
    assert len(unseen) >= 3
    assert [step for step, _ in metrics(done, "sft/held_out_following")] == [step for step, _ in loss]
    figures = output(done, "sft").manifest.figures["unseen"]
    assert (figures["loss_before"], figures["loss_after"]) == pytest.approx((unseen[0][1], unseen[-1][1]))
    assert figures["loss_after"] < figures["loss_before"]
    assert figures["n"] == output(done).count("unseen")


def test_the_figure_is_the_loss_of_what_was_published(done: Path) -> None:
    loaded = load("tiny:llama", precision="float32", clean=False, strict=False)
    attach_adapter(loaded.network, output(done, "sft").file("adapter").parent)
    examples = [
        Example(r.id, Frame.render(loaded.tokenizer, r.instruction, r.response)) for r in output(done).records("unseen")
    ]
    found = loss_on(loaded.network, examples, SftSettings())()
    assert found == pytest.approx(output(done, "sft").manifest.figures["unseen"]["loss_after"], abs=1e-4)


def test_where_nothing_is_held_out_nothing_is_measured_and_nothing_is_otherwise(tmp_path: Path) -> None:
    plain = {key: value for key, value in SFT.items() if key != "unseen"}
    assert go(tmp_path, {"sft": plain}).exit_code == 0
    assert metrics(tmp_path, "sft/held_out_loss")
    assert not metrics(tmp_path, "sft/held_out_unseen_loss")
    manifest = output(tmp_path).manifest
    assert "unseen" not in manifest.shards
    assert "unseen" not in manifest.identity
    assert "unseen" not in output(tmp_path, "sft").manifest.identity


def test_the_gate_finds_them_among_the_trained_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the parting, records of both sides are made in all ways from all texts."""

    def unparted(documents: Any, bench: Any, own: Any, seed: int) -> Any:
        found = make_instructions.pair_up(documents, bench, seed)
        return found, make_instructions.Paired(found.pairs[:40])

    monkeypatch.setattr(make_instructions, "pair_sides", unparted)
    result = go(tmp_path, unseen=UNSEEN)
    assert isinstance(result.error, GateFailed)
    for words in (
        "trained records ask in a way that is held out",
        "in no way that is held out",
        "a text that is trained",
    ):
        assert words in str(result.error)


def test_too_few_to_measure_on_decide_nothing(tmp_path: Path) -> None:
    result = go(tmp_path, unseen={**UNSEEN, "min_records": 500})
    assert isinstance(result.error, GateFailed)
    assert "records of unseen kinds and styles, at least 500" in str(result.error)


@pytest.mark.parametrize(
    ("unseen", "message"),
    [
        ({"kinds": ["gists"]}, r"unseen.kinds.*did you mean 'gist'"),
        ({"styles": ["conversation"]}, r"unseen.styles.*known: brief, child"),
        ({}, "nothing is held out"),
        ({"styles": ["plain", "polite", "child", "terse", "brief"]}, "no style is left"),
        ({"kinds": ["words", "sentence", "gist"]}, "that are left tells one text from another"),
        ({"kind": ["gist"]}, "unknown key 'kind'"),
    ],
)
def test_what_cannot_be_held_out_is_refused_before_any_work(
    tmp_path: Path, unseen: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        go(tmp_path, unseen=unseen)
    assert not (tmp_path / "runs/r/stories").exists()
    assert re.search(message, str(error.value), re.DOTALL)


def test_a_kind_that_is_never_asked_alone_needs_room_for_another(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'features' is never asked alone"):
        go(tmp_path, unseen={"kinds": ["features"]}, pairs={"max_asks": 1})
    asked = go(tmp_path, unseen={"kinds": ["features"], "documents": 0.4, "min_records": 5}, pairs={"max_asks": 2})
    assert asked.exit_code == 0, asked.error
    assert all(
        "features" in made(r)["kinds"] and len(made(r)["kinds"]) == 2 for r in output(tmp_path).records("unseen")
    )


def test_tuning_refuses_what_it_cannot_measure_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"sft\.unseen: the stage 'tasks' keeps no instructions that are only"):
        go(tmp_path, {"sft": SFT})
    assert not (tmp_path / "runs/r/stories").exists()
    with pytest.raises(pydantic.ValidationError, match="unseen: there is no evaluation"):
        Sft.Settings(data="data", unseen="tasks", training={"eval_fraction": 0})


def test_what_another_stage_trains_in_these_ways_is_found(tmp_path: Path) -> None:
    other = {"make_instructions": {"name": "other", "data": "stories"}}
    result = go(tmp_path, other, {"sft": {**SFT, "data": "other"}}, unseen=UNSEEN)
    assert result.outcome == "data"
    assert "trained records ask in their ways" in str(result.error)
