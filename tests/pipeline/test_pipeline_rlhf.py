"""The stage grpo on trained reward models: what is told before any work, each attribute a part, the guard."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from statistics import median, stdev
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pipeline_toys import CLEAN

from rung.app.models_keeper import ModelsKeeper
from rung.app.reports.html import render
from rung.app.reports.story import tell
from rung.app.runs import outputs_of
from rung.base.errors import BudgetSpent, GateFailed, SettingsError
from rung.base.settings import validate
from rung.models.load import load
from rung.pipeline import recipe as recipes
from rung.pipeline.plan import plan
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.stage import Context
from rung.pipeline.stages._reward_reading import open_reward_model
from rung.pipeline.stages._rl_models import KeptReader, announced
from rung.pipeline.stages._rl_scoring import build_judges, judged_by
from rung.pipeline.stages.grpo import Grpo
from rung.records.contracts import Item, Trace
from rung.records.manifest import Opened, open_manifest
from rung.records.types import RolloutRecord
from rung.scoring.mixing import MixSettings, PartSettings
from rung.scoring.reward import Lent

GRADED = {"kind": "graded_answers", "count": 40, "per_question": 4, "largest": 30}
FAST = {"learning_rate": 1e-2, "epochs": 3, "sequences_per_step": 16, "tokens_per_micro_batch": 4096}
PARTS = {"test_share": 0.3, "calibration_share": 0.2}
WEIGHTS = {"verbosity": 3.0, "correctness": -1.0}


def reward(name: str, objective: Any, **more: Any) -> dict[str, Any]:
    training = {**FAST, "objective": objective}
    return {"reward": {"name": name, "source": GRADED, "parts": PARTS, "training": training, **more}}


def policy(name: str, models: dict[str, str], parts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    training = {"num_steps": 3, "prompts_per_step": 4, "group_size": 8, "learning_rate": 5e-3, "truncated": "as_is",
                "eval_interval": 2, "health": {"stop_on": ()}, "checkpoint_interval": 1, "keep": "last",
                **changes.pop("training", {})}  # fmt: skip
    return {
        "grpo": {
            "name": name, "reward_models": models, "rewards": {"parts": parts},
            "tasks": [{"kind": "arithmetic", "operations": "+"}], "num_items": 32, "sampling": {"max_new_tokens": 6},
            "adapter": {"rank": 4}, "pilot": {"num_prompts": 8}, "exam": {"num_items": 12}, "training": training,
            **changes,
        }
    }  # fmt: skip


def keeper() -> ModelsKeeper:
    return ModelsKeeper(functools.partial(load, precision="float32"))


def go(folder: Path, stages: list[dict[str, Any]], **options: Any) -> RunResult:
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"run": "r", "model": "tiny:llama", "seed": 3, "stages": stages}))
    recipe = recipes.load(path)
    forced = options.pop("force", frozenset(spec.name for spec in recipe.stages))
    return run(recipe, folder / "runs", keeper(), Options(code=CLEAN, force=forced, **options))


def output(folder: Path, name: str) -> Opened:
    return open_manifest(folder / "runs" / "r" / name)


PAIRS = reward("pairs", "bradley_terry")
QUANTILES = reward("quantiles", {"kind": "quantile", "num_levels": 4}, body="adapter", adapter={"rank": 4})
ONE = policy("one", {"liked": "pairs"}, {"liked": {"reward": {"kind": "model", "name": "liked"}}})
GOOD = {"kind": "model", "name": "good", "weights": WEIGHTS, "risk": "cvar"}
TWO = policy(
    "two",
    {"good": "quantiles", "liked": "pairs"},
    {
        "good": {"reward": GOOD, "weight": 2.0},
        "told": {"reward": {"kind": "model", "name": "liked"}, "weight": 0.0},
    },
    model="one",
    hidden_reward={"kind": "model", "name": "liked"},
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rlhf")
    result = go(folder, [PAIRS, QUANTILES, ONE, TWO])
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    return folder


def rollouts(folder: Path, name: str) -> list[RolloutRecord]:
    return list(output(folder, name).records("rollout"))


def test_item_319_every_attribute_is_a_part_normalised_in_its_group_and_weighted(done: Path) -> None:
    trained = [record for record in rollouts(done, "two") if record.outcome == "trained"]
    names = ("good.correctness", "good.verbosity", "told")
    assert {frozenset(record.parts) for record in trained} == {frozenset([*names, *(f"raw.{one}" for one in names)])}
    assert {record.parts["told"] for record in trained} == {0.0}
    groups: dict[int, list[RolloutRecord]] = {}
    for record in trained:
        assert record.reward == pytest.approx(record.parts["good.correctness"] + record.parts["good.verbosity"])
        groups.setdefault(record.group, []).append(record)
    spread = [[r.parts["good.verbosity"] for r in own] for own in groups.values()]
    varied = [stdev(own) for own in spread if any(own)]
    assert varied
    assert varied == pytest.approx([2.0 * 3 / 4] * len(varied)), "a part's weight, by the share of the attribute's"
    assert {r.parts["raw.good.correctness"] <= 0 for r in trained} == {True}, "a negative weight counts against"


def test_a_report_finds_what_each_attribute_did(done: Path) -> None:
    figures = output(done, "two").manifest.figures
    for name in ("good.correctness", "good.verbosity"):
        assert [step for step, _ in figures["curves"][f"reward.{name}"]] == [1, 2, 3]
        gain = figures["exam"]["graded"][name]
        assert gain["lift"]["difference"] == pytest.approx(gain["after"] - gain["before"])
    verbose = [r.parts["raw.good.verbosity"] for r in rollouts(done, "two") if r.step == 2 and r.outcome == "trained"]
    assert figures["curves"]["reward.good.verbosity"][1][1] == pytest.approx(sum(verbose) / len(verbose))
    assert set(output(done, "one").manifest.figures["exam"]["graded"]) == {"accuracy", "liked"}
    page = render(tell("r", outputs_of(done / "runs" / "r")))
    assert "reward.good.verbosity" in page
    assert "reward.liked" in page


def test_item_318_the_pairwise_model_judges_and_half_of_what_was_said_at_first_passes(done: Path) -> None:
    manifest = output(done, "one").manifest
    assert manifest.parents["reward_model.liked"] == output(done, "pairs").manifest.fingerprint
    pilot = [record.accuracy for record in output(done, "one").records("pilot")]
    assert manifest.figures["pilot"]["pass_rate"] == sum(value >= median(pilot) for value in pilot) / len(pilot)
    least = median(pilot)
    for answer in output(done, "one").records("answer"):
        assert answer.passed == (answer.verdicts["accuracy"]["value"] >= least)
    assert "reward.liked" in manifest.calibration, "what probes find of a trained model is told"
    assert "verifier" not in manifest.calibration, "there is none"


def test_a_frozen_model_reads_the_policys_base_and_never_the_policy(done: Path) -> None:
    facts = {**output(done, "one").manifest.figures, **output(done, "two").manifest.figures}["reward_models"]
    assert (facts["liked"]["body"], facts["good"]["body"]) == (
        "the policy's base, its adapter off", "a network beside the policy",
    )  # fmt: skip
    assert facts["liked"]["num_bytes"] < facts["good"]["num_bytes"] / 100
    context = SimpleNamespace(models=keeper(), model_source="tiny:llama")
    for stage, model, part in (
        ("one", "pairs", "raw.liked"),
        ("two", "pairs", "raw.told"),
        ("two", "quantiles", "raw.good.verbosity"),
    ):
        reader = open_reward_model(context, output(done, model))
        told = announced(output(done, model), model)
        assert (told.attributes, told.levels) == (dict(reader.attributes), reader.levels)
        last = [record for record in rollouts(done, stage) if record.step == 3 and part in record.parts]
        read = reader.read([Item(r.id, r.instruction) for r in last], [Trace(r.id, r.text) for r in last])
        place = list(reader.attributes).index("verbosity") if model == "quantiles" else 0
        assert last
        for record, values in zip(last, read, strict=True):
            assert record.parts[part] == pytest.approx(min(values[place][:1]), abs=1e-5), "cvar 0.25 is the lowest"


def test_stopped_in_training_it_goes_on_to_the_same_weights_and_answers(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = Context.__init__, iter(range(10_000))

    def limited(self: Context, *arguments: Any, **keywords: Any) -> None:
        before(self, *arguments, **keywords)
        spend = self.budget.spend

        def stop(tokens: float = 0.0, **more: Any) -> None:
            spend(tokens=tokens, **more)
            if self.name == "one" and next(calls) == 3:
                raise BudgetSpent("enough for today")

        monkeypatch.setattr(self.budget, "spend", stop)

    monkeypatch.setattr(Context, "__init__", limited)
    assert go(tmp_path, [PAIRS, ONE]).stages[-1].outcome == "budget"
    assert list((tmp_path / "runs/r/one/.work/scratch").glob("checkpoint-*")), "it was stopped in training"
    monkeypatch.undo()
    assert go(tmp_path, [PAIRS, ONE]).exit_code == 0
    first, second = output(done, "one").manifest, output(tmp_path, "one").manifest
    assert first.shards == second.shards
    assert [(info.name, info.sha256) for info in first.files] == [(info.name, info.sha256) for info in second.files]


def test_a_model_of_another_run_is_taken_from_its_folder_wherever_that_lies(done: Path, tmp_path: Path) -> None:
    def elsewhere(folder: Path) -> dict[str, Any]:
        return policy("one", {"liked": f"run:{folder}"}, {"liked": {"reward": {"kind": "model", "name": "liked"}}})

    assert go(tmp_path / "a", [elsewhere(done / "runs/r/pairs")]).exit_code == 0
    shutil.copytree(done / "runs/r/pairs", tmp_path / "moved")
    assert go(tmp_path / "b", [elsewhere(tmp_path / "moved")]).exit_code == 0
    first, second = (output(tmp_path / name, "one").manifest for name in ("a", "b"))
    assert first.fingerprint == second.fingerprint
    assert first.shards == second.shards == output(done, "one").manifest.shards
    assert [text for text in first.bypasses if text.startswith("gate of pairs")] == [
        text for text in output(done, "pairs").manifest.bypasses if text.startswith("gate of pairs")
    ]
    (tmp_path / "moved" / "reward_head" / "reward_head.json").write_text("{}")
    result = go(tmp_path / "c", [elsewhere(tmp_path / "moved")])
    assert "missing or changed" in result.stages[-1].message


def test_an_attribute_that_the_model_does_not_read_is_told_before_any_work(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "runs", tmp_path / "runs")
    parts = {"good": {"reward": {"kind": "model", "name": "good", "weights": {"verbose": 1.0}}}}
    result = go(tmp_path, [PAIRS, QUANTILES, policy("new", {"good": "quantiles"}, parts)])
    assert "no attribute 'verbose'" in result.stages[-1].message
    assert "did you mean 'verbosity'" in str(result.error)
    assert not list((tmp_path / "runs/r/new").glob("*.zst")), "nothing was sampled"
    at_once = policy("new", {"good": f"run:{done / 'runs/r/quantiles'}"}, parts)
    with pytest.raises(SettingsError, match="no attribute 'verbose'"):
        go(tmp_path, [at_once])


@pytest.mark.parametrize(
    ("models", "reward_spec", "words"),
    [
        ({"liked": "pairs"}, {"kind": "model", "name": "likd"}, "no reward asks the model 'liked'"),
        ({}, {"kind": "model", "name": "liked"}, "needs a model called 'liked'"),
        ({"liked": "pears"}, {"kind": "model", "name": "liked"}, "pears"),
        ({"liked": "pairs"}, {"kind": "model", "name": "liked", "weights": {"preference": 0.0}}, "needs a weight"),
    ],
)
def test_a_model_that_is_not_there_is_told_when_the_recipe_is_read(
    tmp_path: Path, models: dict[str, str], reward_spec: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        go(tmp_path, [PAIRS, policy("one", models, {"liked": {"reward": reward_spec}})])


def test_only_a_reward_stage_that_passed_is_asked(done: Path, tmp_path: Path) -> None:
    parts = {"liked": {"reward": {"kind": "model", "name": "liked"}}}
    with pytest.raises(SettingsError, match="'one' trained no reward model"):
        go(tmp_path, [policy("two", {"liked": f"run:{done / 'runs/r/one'}"}, parts)])
    failed = go(tmp_path / "failed", [reward("pairs", "bradley_terry", min_accuracy=0.99)], force=frozenset())
    assert failed.stages[-1].outcome == "gate_failed"
    with pytest.raises(GateFailed, match="did not pass its gate"):
        go(tmp_path, [policy("two", {"liked": f"run:{tmp_path / 'failed/runs/r/pairs'}"}, parts)])


def test_a_policy_that_leaves_what_a_hidden_model_likes_is_stopped_with_evidence(done: Path, tmp_path: Path) -> None:
    """The hidden model wants the opposite: whatever the policy gains with the one it loses with the other."""
    spec = {"kind": "model", "name": "good", "weights": {"verbosity": 1.0}}
    stage = policy(
        "drift",
        {"good": f"run:{done / 'runs/r/quantiles'}"},
        {"good": {"reward": spec}},
        hidden_reward={**spec, "weights": {"verbosity": -1.0}},
        hidden={"max_gap": 0.05, "patience": 1, "min_items": 8},
        adapter={"kind": "none"},
        exam={"num_items": 32, "num_samples": 4, "temperature": 1.0},
        sampling={"max_new_tokens": 3},
        training={"num_steps": 40, "prompts_per_step": 4, "group_size": 16, "eval_interval": 5, "learning_rate": 1e-2},
    )
    assert go(tmp_path, [stage]).exit_code == 0
    figures = output(tmp_path, "drift").manifest.figures
    assert "and the hidden verifier" in figures["stopped"]
    assert figures["num_steps"] < 40
    assert figures["exam"]["lift"]["interval"]["low"] > 0, "by the model that it is trained on it did get better"


class _Counting:
    levels, attributes = (), {"a": 1.0, "b": 1.0}

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def read(self, items: Any, traces: Any) -> list[Any]:
        self.asked.append([trace.text for trace in traces])
        return [((len(trace.text) / 10,), (0.5,)) for trace in traces]


def test_a_batch_is_read_once_for_all_attributes_and_whole_when_it_is_new() -> None:
    inner = _Counting()
    parts = {"m": PartSettings(reward="model")}
    judges = build_judges(MixSettings(parts=parts), "", Lent(readers={"model": KeptReader(inner)}))
    items, traces = [Item("i", "?")] * 3, [Trace("i", text) for text in ("x", "xyz", "x")]
    assert [score.value for score in judges.accuracy.score(items, traces)] == pytest.approx([0.3, 0.4, 0.3])
    judges.mix.mixed(items, traces, [0, 0, 0])
    assert inner.asked == [["x", "xyz"]]
    judges.accuracy.score(items[:2], [Trace("i", "x"), Trace("i", "new")])
    assert inner.asked[1:] == [["x", "new"]], "what is read does not depend on what was read in earlier steps"


def test_the_gate_of_a_trained_judge_wants_a_gain_in_its_value() -> None:
    made = Grpo(
        validate(Grpo.Settings, {"tasks": ["arithmetic"], "rewards": {"parts": {"m": {"reward": "model"}}}}, "g")
    )

    def verdict(low: float, number: int = 40) -> Any:
        passes = {"difference": 0.5, "interval": {"low": 0.4}}
        graded = {"accuracy": {"num_items": number, "lift": {"difference": 0.1, "interval": {"low": low}}}}
        exam = {"num_items": 40, "lift": passes, "graded": graded}
        return made.gate({"exam": exam, "base_unchanged": True})

    assert verdict(0.05).passed
    assert "held-out reward rose by +10.0%, at least -1.0%" in verdict(-0.01).reasons[0]
    assert not verdict(0.05, number=3).decided


def test_the_part_that_judges_is_the_one_named_else_a_verifier_else_a_model() -> None:
    def of(*kinds: str, accuracy: str = "") -> tuple[str, bool]:
        return judged_by(MixSettings(parts={kind: PartSettings(reward=kind) for kind in kinds}), accuracy)

    assert of("model", "verified") == ("verified", False)
    assert of("model", "brevity") == ("model", True)
    assert of("model", "verified", accuracy="model") == ("model", True)
    assert of("brevity") == ("", False)


def test_the_recipe_is_planned_and_its_stages_run_on_a_tiny_scale(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "recipes" / "rlhf.yaml"
    rows = plan(recipes.load(path), tmp_path, Options(code=CLEAN, identify_model=lambda source: source))
    assert [row.state for row in rows.stages] == ["to_do"] * 11
    assert rows.problems == ()
    assert rows.stages[-1].inputs.keys() == {"trained", "reward_model.preferred", "reward_model.attributes"}
    result = go(tmp_path, [_small(stage) for stage in yaml.safe_load(path.read_text())["stages"][7:]])
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    gains = output(tmp_path, "rlhf_two").manifest.figures["exam"]["graded"]
    assert set(gains) == {"accuracy", "good.correctness", "good.verbosity"}


def _small(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage of the recipe for a model that knows nothing, in seconds."""
    ((kind, said),) = stage.items()
    if kind == "reward":
        source, training = {**said["source"], "count": 40}, {**said["training"], "epochs": 1}
        return {kind: {**said, "source": source, "training": training}}
    small = {
        "num_items": 16, "sampling": {"max_new_tokens": 6}, "pilot": {"num_prompts": 4}, "exam": {"num_items": 8},
        "training": {**said["training"], "num_steps": 2, "eval_interval": 1, "truncated": "as_is"},
    }  # fmt: skip
    return {kind: {key: value for key, value in {**said, **small}.items() if value != "sft"}}
