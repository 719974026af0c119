"""The reward stage on a tiny model: pairs, attributes, quantiles, steps; gates, resume, and the model in a mix."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pipeline_toys import CLEAN

from rung.app.models_keeper import ModelsKeeper
from rung.base.errors import BudgetSpent, SettingsError
from rung.base.settings import validate
from rung.datagen.labelled.graded_answers import GradedAnswers
from rung.models.load import load
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.stage import Context
from rung.pipeline.stages._reward_figures import pair_figures, ranking_figures
from rung.pipeline.stages._reward_reading import open_reward_model
from rung.pipeline.stages._reward_sets import PartsSettings, answers_of, part_by_prompt
from rung.pipeline.stages.reward import Reward
from rung.records.contracts import Item, Trace
from rung.records.manifest import Opened, open_manifest
from rung.records.types import PairReward, RewardReading
from rung.scoring.mixing import MixSettings, build_mix
from rung.scoring.reward import Lent

GRADED = {"kind": "graded_answers", "count": 60, "per_question": 4, "largest": 30}
FAST = {"learning_rate": 1e-2, "epochs": 3, "sequences_per_step": 16, "tokens_per_micro_batch": 4096}
PARTS = {"test_share": 0.3, "calibration_share": 0.2}


def stage(name: str, source: Any, objective: Any, **more: Any) -> dict[str, Any]:
    training = {**FAST, "objective": objective, **more.pop("training", {})}
    return {"reward": {"name": name, "source": source, "parts": PARTS, "training": training, **more}}


def models() -> ModelsKeeper:
    return ModelsKeeper(functools.partial(load, precision="float32"))


def go(folder: Path, stages: list[dict[str, Any]], **options: Any) -> RunResult:
    path = folder / "recipe.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"run": "r", "model": "tiny:llama", "seed": 3, "stages": stages}))
    recipe = recipes.load(path)
    forced = frozenset(spec.name for spec in recipe.stages)
    return run(recipe, folder / "runs", models(), Options(code=CLEAN, force=forced, **options))


def output(folder: Path, name: str) -> Opened:
    return open_manifest(folder / "runs" / "r" / name)


TRAINED = {"body": "adapter", "adapter": {"rank": 8}, "training": {"epochs": 8, "learning_rate": 5e-3, "patience": 0}}
ATTRIBUTES = stage("attributes", GRADED, "attribute_regression", **TRAINED)
QUANTILES = stage("quantiles", GRADED, {"kind": "quantile", "num_levels": 4}, **TRAINED)
PAIRS = stage("pairs", GRADED, "bradley_terry")
CHAINS = {"kind": "arithmetic_steps", "count": 14, "num_steps": 2}
STEPS = stage("steps", CHAINS, "hierarchical", body="adapter", adapter={"rank": 4}, training={"epochs": 1})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    result = go(folder, [ATTRIBUTES, QUANTILES, PAIRS, STEPS])
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    return folder


def test_items_301_302_attributes_are_judged_one_by_one_against_the_mean(done: Path) -> None:
    figures = output(done, "attributes").manifest.figures
    assert set(figures["attributes"]) == {"correctness", "verbosity"}
    wordy = figures["attributes"]["verbosity"]
    assert wordy["against_mean"]["error"] < wordy["against_mean"]["error_of_mean"]
    assert wordy["against_mean"]["gain"]["interval"]["low"] > 0
    assert wordy["spearman"] > 0.5
    assert wordy["accuracy"]["interval"]["low"] > 0.5
    readings = list(output(done, "attributes").records("reading"))
    assert (
        wordy["n"] == sum(one.labels[one.attributes.index("verbosity")] is not None for one in readings) < len(readings)
    )
    assert figures["body_unchanged"] is True


def test_item_299_coverage_of_every_level_is_told_and_mended_on_a_part_of_its_own(done: Path) -> None:
    figures = output(done, "quantiles").manifest.figures
    rows = figures["attributes"]["verbosity"]["coverage"]
    assert [row["level"] for row in rows] == [0.125, 0.375, 0.625, 0.875]
    offsets = figures["facts"]["offsets"]
    assert [len(row) for row in offsets] == [4, 4]
    assert all(any(row) for row in offsets)
    for one in output(done, "quantiles").records("reading"):
        assert all(list(values) == sorted(values) and len(values) == 4 for values in one.values)
    assert figures["parts"]["calibration"]["answers"] > 20


def test_pairs_get_accuracy_calibration_and_length_bias(done: Path) -> None:
    figures = output(done, "pairs").manifest.figures["pairs"]
    rewards = list(output(done, "pairs").records("reward"))
    assert figures["accuracy"]["n"] == len(rewards) > 20
    assert figures["accuracy"]["successes"] == sum(one.margin > 0 for one in rewards)
    assert 0 < figures["calibration"]["brier"] < 0.5
    assert sum(row["came_true"]["n"] for row in figures["calibration"]["bins"]) == len(rewards)
    assert set(figures["length_bias"]) == {"correlation", "longer_better", "shorter_better"}
    assert output(done, "pairs").manifest.figures["facts"]["temperatures"] != [1.0]


def test_item_308_both_parts_and_their_combination_are_told(done: Path) -> None:
    opened = output(done, "steps")
    readings = list(opened.records("reading"))
    assert {one.attributes for one in readings} == {("hierarchical", "soundness", "coherence")}
    for one in readings:
        whole, sound, coherent = (values[0] for values in one.values)
        assert whole == pytest.approx(coherent * (1 - 0.3 * (1 - sound)), abs=1e-9)
    ranking = opened.manifest.figures["ranking"]
    assert set(ranking) == {"hierarchical", "soundness", "coherence"}
    assert "sound over end" in ranking["hierarchical"]["by_kind"]
    assert ranking["hierarchical"]["num_prompts"] == len({one.group for one in readings})
    assert opened.file("adapter").name == "adapter_config.json"


def test_prompts_lie_on_one_side_and_the_test_part_does_not_depend_on_the_calibration_part() -> None:
    data = GradedAnswers(GradedAnswers.Settings(count=80)).make()
    parts = part_by_prompt(data, PartsSettings(test_share=0.3, calibration_share=0.2))
    sides = [{one.instruction for one in part.answers} for part in (parts.train, parts.calibration, parts.test)]
    assert all(sides)
    assert sum(map(len, sides)) == len({one.instruction for one in data.answers})
    assert {one.instruction for one in parts.test.pairs} <= sides[2]
    other = part_by_prompt(data, PartsSettings(test_share=0.3, calibration_share=0.0))
    assert other.test == parts.test


def test_what_the_stage_published_reads_as_it_read_then_and_works_in_a_mix(done: Path) -> None:
    opened = output(done, "quantiles")
    context = SimpleNamespace(models=models(), model_source="tiny:llama")
    reader = open_reward_model(context, opened)
    made = GradedAnswers(GradedAnswers.Settings(count=60, per_question=4, largest=30)).make()
    data = part_by_prompt(made, PartsSettings(**PARTS))
    answers = {one.id: one for one in answers_of(data.test)[1]}
    stored = list(opened.records("reading"))
    items = [Item(one.id, one.group) for one in stored]
    traces = [Trace(one.id, answers[one.id].text) for one in stored]
    for one, values in zip(stored, reader.read(items, traces), strict=True):
        for had, got in zip(one.values, values, strict=True):
            assert got == pytest.approx(had, abs=1e-5)
    assert reader.read([Item("e", "What?")], [Trace("e", "  ")]) == [None]
    means = mixed(reader, items, traces, {"verbosity": 1.0})
    assert mixed(reader, items, traces, {"verbosity": -1.0}) == pytest.approx([-value for value in means])
    safe = mixed(reader, items, traces, {"verbosity": 1.0}, risk="cvar", tail=0.4)
    assert all(low < value for low, value in zip(safe, means, strict=True))
    labels = [one.labels[one.attributes.index("verbosity")] for one in stored]
    high = [m for m, y in zip(means, labels, strict=True) if y is not None and y > 0.6]
    low = [m for m, y in zip(means, labels, strict=True) if y is not None and y < 0.4]
    assert sum(high) / len(high) > sum(low) / len(low), "item 319: what is weighted up is what pays"


def mixed(reader: Any, items: list[Item], traces: list[Trace], weights: dict[str, float], **more: Any) -> list[float]:
    reward = {"kind": "model", "weights": weights, **more}
    mix = build_mix(MixSettings(parts={"m": {"reward": reward}}, combine="sum"), Lent(readers={"model": reader}))
    return [float(score.value or 0.0) for score in mix.score(items, traces)]


def test_weights_and_risks_that_the_model_does_not_know_are_refused(done: Path) -> None:
    reader = open_reward_model(SimpleNamespace(models=models(), model_source="tiny:llama"), output(done, "attributes"))
    lent = Lent(readers={"model": reader})
    with pytest.raises(SettingsError, match="no attribute 'verbose'") as caught:
        build_mix(MixSettings(parts={"m": {"reward": {"kind": "model", "weights": {"verbose": 1.0}}}}), lent)
    assert "verbosity" in caught.value.hint
    with pytest.raises(SettingsError, match="single values"):
        build_mix(MixSettings(parts={"m": {"reward": {"kind": "model", "risk": "cvar"}}}), lent)


def test_a_finished_run_is_skipped(done: Path, outcomes: Callable[[RunResult], list[str]]) -> None:
    assert set(outcomes(go(done, [ATTRIBUTES, QUANTILES, PAIRS, STEPS]))) <= {"skipped", "forced"}


@pytest.mark.parametrize(("name", "at"), [("steps", 4), ("pairs", 3)])
def test_stopped_in_training_it_goes_on_to_the_same_bytes(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
    chosen = {"steps": STEPS, "pairs": PAIRS}[name]
    calls, before = iter(range(10_000)), Context.__init__

    def limited(self: Context, *arguments: Any, **keywords: Any) -> None:
        before(self, *arguments, **keywords)
        spend = self.budget.spend

        def stop(tokens: float = 0.0, **more: Any) -> None:
            spend(tokens=tokens, **more)
            if next(calls) == at:
                raise BudgetSpent("enough for today")

        monkeypatch.setattr(self.budget, "spend", stop)

    monkeypatch.setattr(Context, "__init__", limited)
    assert go(tmp_path, [chosen]).stages[0].outcome == "budget"
    monkeypatch.undo()
    assert go(tmp_path, [chosen]).exit_code == 0
    first, second = output(done, name).manifest, output(tmp_path, name).manifest
    assert {file.name: file.sha256 for file in first.files} == {file.name: file.sha256 for file in second.files}
    assert first.shards == second.shards


def judged(low: float = 0.6, n: int = 40, gain: float = 0.1) -> dict[str, Any]:
    accuracy = {"n": n, "rate": 0.7, "interval": {"low": low}}
    row = {"n": n, "accuracy": accuracy, "against_mean": {"gain": {"interval": {"low": gain}}}}
    return {
        "pairs": {}, "attributes": {"correctness": row}, "ranking": {}, "final_loss": 0.5, "body_unchanged": True,
    }  # fmt: skip


def verdict(figures: dict[str, Any], **settings: Any) -> Any:
    return Reward(validate(Reward.Settings, {"source": "graded_answers", **settings}, "reward")).gate(figures)


def test_the_gate_wants_more_than_chance_and_more_than_the_mean() -> None:
    assert verdict(judged()).passed
    assert "not over 0.5" in verdict(judged(low=0.45)).reasons[0]
    assert "saying the mean" in verdict(judged(gain=-0.01)).reasons[0]
    unweighted = {"objective": {"kind": "attribute_regression", "weights": {"correctness": 0.0}}}
    assert verdict(judged(gain=-0.01), training=unweighted).passed
    few = verdict(judged(n=10))
    assert not few.passed
    assert not few.decided
    changed = verdict({**judged(), "body_unchanged": False})
    assert "frozen body changed" in changed.reasons[0]


def test_settings_name_one_origin() -> None:
    for values in ({}, {"data": "pairs", "source": "graded_answers"}):
        with pytest.raises(SettingsError, match="either data"):
            validate(Reward.Settings, values, "reward")
    with pytest.raises(SettingsError, match="not every weight"):
        validate(Reward.Settings, {"source": "graded_answers", "adapter": {"kind": "none"}}, "reward")


def test_item_309_each_part_alone_misses_what_the_other_sees() -> None:
    """A reader that sees perfectly what it is asked: the combination ranks both kinds of flaw, either part one kind."""

    def reading(group: str, kind: str, rank: float, sound: float, coherent: float) -> RewardReading:
        values = ((coherent * (1 - 0.3 * (1 - sound)),), (sound,), (coherent,))
        names = ("hierarchical", "soundness", "coherence")
        return RewardReading(f"{group}-{kind}", group, kind, names, (None, sound, coherent), values, 5, rank)

    flaws = (("sound", 2, 1.0, 0.9), ("step", 1, 0.5, 0.9), ("end", 0, 1.0, 0.1))
    readings = [reading(group, *flaw) for group in ("a", "b", "c") for flaw in flaws]
    found = ranking_figures(readings)
    assert found["hierarchical"]["rate"] == 1.0
    assert found["soundness"]["by_kind"] == {"sound over end": 0.5, "sound over step": 1.0, "step over end": 0.0}
    assert found["coherence"]["by_kind"] == {"sound over end": 1.0, "sound over step": 0.5, "step over end": 1.0}


def test_a_model_that_prefers_longer_answers_is_told_by_its_figures() -> None:
    rewards = [PairReward(f"l{n}", "k", 2.0, 0.0, 20, 5) for n in range(30)]
    rewards += [PairReward(f"s{n}", "k", 0.0, 1.0, 5, 20) for n in range(10)]
    found = pair_figures(rewards)
    assert found["length_bias"]["longer_better"]["rate"] == 1.0
    assert found["length_bias"]["shorter_better"]["rate"] == 0.0
    assert found["length_bias"]["correlation"] > 0.9
    assert json.dumps(found)
