"""Full fine-tuning from the recipe to the evaluation: saved whole, stopped and resumed, loaded as a source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_pipeline_dpo import TRAINING, go, ladder, models, output

from rung.base.errors import BudgetSpent
from rung.models.load import load
from rung.pipeline.stage import Context

TRAINED = {"data": "data", "adapter": {"kind": "none"}, "training": {**TRAINING, "eval_fraction": 0.0}}


def stages(**adapter: Any) -> list[dict[str, Any]]:
    data, probe, _, _, _, evaluate, _ = ladder(data={"count": 24})
    sft = {**TRAINED, "adapter": adapter} if adapter else TRAINED
    return [data, probe, {"sft": sft}, {"evaluate": {**evaluate["evaluate"], "model": "sft"}}]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    result = go(folder, stages())
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    return folder


def test_every_weight_is_trained_published_and_evaluated(done: Path) -> None:
    manifest = output(done, "sft").manifest
    assert [(file.name, file.role) for file in manifest.files] == [("weights.safetensors", "weights")]
    assert manifest.figures["adapter"]["num_trainable"] == manifest.figures["adapter"]["num_total"]
    assert manifest.gate["passed"]
    assert output(done, "evaluate").count("answer") == 12


def test_the_stage_is_a_source_of_models_with_the_weights_that_were_trained(done: Path) -> None:
    trained = load_file(output(done, "sft").file("weights"))
    base, tuned = load("tiny:llama", precision="float32"), load(f"run:{done / 'runs/r/sft'}", precision="float32")
    kept = models().load("tiny:llama", output(done, "sft").file("weights"))
    for loaded in (tuned, kept):
        weights = loaded.network.state_dict()
        assert weights.keys() == trained.keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in trained.items())
    assert any(not torch.equal(base.network.state_dict()[name], tensor) for name, tensor in trained.items())


def test_stopped_in_training_it_goes_on_to_the_same_weights(done: Path, tmp_path: Path, monkeypatch: Any) -> None:
    calls, before = iter(range(1000)), Context.__init__

    def limited(self: Context, *arguments: Any, **keywords: Any) -> None:
        """After the third step it is enough."""
        before(self, *arguments, **keywords)
        spend = self.budget.spend

        def stop(tokens: float = 0.0, **more: Any) -> None:
            """Count the steps of training."""
            spend(tokens=tokens, **more)
            if self.name == "sft" and next(calls) == 2:
                raise BudgetSpent("enough for today")

        monkeypatch.setattr(self.budget, "spend", stop)

    monkeypatch.setattr(Context, "__init__", limited)
    assert {s.name: s.outcome for s in go(tmp_path, stages()).stages}["sft"] == "budget"
    monkeypatch.undo()
    assert go(tmp_path, stages()).exit_code == 0
    paths = [output(folder, "sft").file("weights") for folder in (done, tmp_path)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_dora_goes_the_same_way(tmp_path: Path) -> None:
    result = go(tmp_path, stages(kind="dora", rank=4))
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    assert output(tmp_path, "sft").manifest.figures["adapter"]["path"] == "dora"
    assert output(tmp_path, "sft").manifest.figures["base_unchanged"]


def test_instructions_are_answered_at_each_evaluation(tmp_path: Path) -> None:
    data, *_ = ladder(data={"count": 24})
    training = {**TRAINING, "eval_fraction": 0.2, "eval_interval": 2}
    suite = {"kind": "instruction_following", "count": 12}
    result = go(tmp_path, [data, {"sft": {**TRAINED, "training": training, "follow": {"suite": suite}}}])
    assert result.exit_code == 0, str(result.error)
    events = [json.loads(line) for line in (tmp_path / "runs/r/events.jsonl").read_text().splitlines()]
    steps = {
        name: [e["step"] for e in events if e["kind"] == "metric" and e["name"] == f"sft/held_out_{name}"]
        for name in ("loss", "following")
    }
    assert steps["following"] == steps["loss"]
    assert len(steps["loss"]) > 2
