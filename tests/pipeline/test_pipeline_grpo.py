"""The stage grpo on a tiny model: from chance to solved, refused where it must be, stopped and gone on with."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pipeline_toys import CLEAN

from rung.app.models_keeper import ModelsKeeper
from rung.base.errors import BudgetSpent, GateFailed, SettingsError
from rung.base.events import Events
from rung.base.settings import validate
from rung.models.load import load
from rung.pipeline import recipe as recipes
from rung.pipeline.plan import plan
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.stage import Context
from rung.pipeline.stages._rl_pilot import PilotSettings, pilot_figures, refuse_hopeless, sample_pilot
from rung.pipeline.stages._rl_scoring import Hidden, Watched, build_judges
from rung.pipeline.stages.grpo import Grpo
from rung.records.contracts import Item, Trace
from rung.records.manifest import Opened, open_manifest
from rung.records.rollout import Rollout
from rung.records.types import RolloutRecord
from rung.scoring.checks import Checks
from rung.scoring.hidden import HiddenSettings
from rung.scoring.mixing import MixSettings
from rung.search.played import Played

SIZES = {"num_steps": 24, "prompts_per_step": 8, "group_size": 32, "learning_rate": 5e-3, "truncated": "as_is",
         "eval_interval": 12, "health": {"stop_on": ()}, "checkpoint_interval": 4}  # fmt: skip
TASK = {"kind": "target_word", "words": ["a"], "prompt": "{number}{word}"}


def stage(**changes: Any) -> dict[str, Any]:
    """One letter is to be said, which a random model does once in a hundred answers."""
    training = {**SIZES, **changes.pop("training", {})}
    return {
        "grpo": {
            "tasks": [TASK], "num_items": 48, "prompt": {"format": "raw"}, "sampling": {"max_new_tokens": 1},
            "adapter": {"kind": "none"}, "pilot": {"num_prompts": 8, "least_mixed": 0.05}, "exam": {"num_items": 32},
            "training": training, **changes,
        }
    }  # fmt: skip


def go(folder: Path, stages: list[dict[str, Any]], keeper: Any = None, **options: Any) -> RunResult:
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    values = {"run": "r", "model": "tiny:llama", "seed": 3, "stages": stages, "budget": options.pop("budget", {})}
    path.write_text(yaml.safe_dump(values))
    keeper = keeper or ModelsKeeper(functools.partial(load, precision="float32"))
    return run(recipes.load(path), folder / "runs", keeper, Options(code=CLEAN, **options))


def output(folder: Path, name: str = "grpo") -> Opened:
    return open_manifest(folder / "runs" / "r" / name)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grpo")
    result = go(folder, [stage()])
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    return folder


def test_item_317_a_target_is_learned_from_chance_to_ninety_percent(done: Path) -> None:
    figures = output(done).manifest.figures
    assert figures["exam"]["before"]["rate"] <= 0.1
    assert figures["exam"]["after"]["rate"] >= 0.9
    assert figures["exam"]["lift"]["interval"]["low"] > 0.5
    assert figures["exam"]["mcnemar"]["p"] < 1e-3
    assert output(done).manifest.gate["passed"]
    assert max(value for _, value in figures["curves"]["drift"]) < 0.5


def test_every_answer_of_the_run_is_kept_with_its_judgement(done: Path) -> None:
    opened = output(done)
    records: list[RolloutRecord] = list(opened.records("rollout"))
    figures = opened.manifest.figures
    assert len(records) == figures["num_rollouts"] == sum(figures["rollouts"].values())
    assert len({record.id for record in records}) == len(records)
    assert {record.step for record in records} == set(range(1, 25))
    trained = [record for record in records if record.outcome == "trained"]
    assert {tuple(sorted(record.parts)) for record in trained} == {("correct", "raw.correct")}
    assert all(record.advantage is not None for record in trained)
    assert len(list(opened.records("pilot"))) == 8 * 32
    assert opened.manifest.drops == {k: v for k, v in figures_discarded(records).items() if v}


def figures_discarded(records: list[RolloutRecord]) -> dict[str, int]:
    groups = {record.group: record.outcome for record in records}
    return {
        name: list(groups.values()).count(name) for name in ("all right", "all wrong", "alike", "abstained", "surplus")
    }


def test_what_was_proven_before_spending_is_in_the_manifest(done: Path) -> None:
    manifest = output(done).manifest
    assert manifest.calibration["verifier"]["verdict"] == "strong"
    assert manifest.calibration["reward.correct"]["num_cases"] >= 5
    assert manifest.figures["pilot"]["mixed"]["num_prompts"] == 8
    assert manifest.figures["pilot"]["pass_rate"] < 0.05
    assert manifest.figures["reference"].startswith("none")
    assert manifest.spend["tokens"] > manifest.figures["num_sampled_tokens"]


def test_stopped_in_training_it_goes_on_to_the_same_weights_and_answers(
    done: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    before, calls = Context.__init__, iter(range(10_000))

    def limited(self: Context, *arguments: Any, **keywords: Any) -> None:
        before(self, *arguments, **keywords)
        spend = self.budget.spend

        def stop(tokens: float = 0.0, **more: Any) -> None:
            spend(tokens=tokens, **more)
            if next(calls) == 11:
                raise BudgetSpent("enough for today")

        monkeypatch.setattr(self.budget, "spend", stop)

    monkeypatch.setattr(Context, "__init__", limited)
    assert go(tmp_path, [stage()]).stages[-1].outcome == "budget"
    assert list((tmp_path / "runs/r/grpo/.work/scratch").glob("checkpoint-*")), "it was stopped in training"
    monkeypatch.undo()
    assert go(tmp_path, [stage()]).exit_code == 0
    first, second = output(done).manifest, output(tmp_path).manifest
    assert first.shards == second.shards
    assert [(info.name, info.sha256) for info in first.files] == [(info.name, info.sha256) for info in second.files]
    assert not second.degraded, "a shard that was made again came out the same"


def test_it_goes_on_from_an_earlier_stages_adapter(tmp_path: Path) -> None:
    short = {"num_steps": 2, "eval_interval": 2, "group_size": 16, "keep": "last",
             "objective": {"kind": "grpo", "kl_coefficient": 0.1}}  # fmt: skip
    small = {"adapter": {"rank": 4}, "training": short, "pilot": {"num_prompts": 8, "least_mixed": 0.0},
             "exam": {"num_items": 8}}  # fmt: skip
    second = stage(**{**small, "model": "one", "name": "two"})
    stages = [stage(**{**small, "name": "one"}), second]
    result = go(tmp_path, stages, force=frozenset({"one", "two"}))
    assert [s.outcome for s in result.stages] == ["forced", "forced"], [s.message for s in result.stages]
    found = output(tmp_path, "two").manifest
    assert found.parents["trained"] == output(tmp_path, "one").manifest.fingerprint
    assert found.figures["reference"] == "adapter off"
    assert found.figures["base_unchanged"] is True
    assert {info.name for info in found.files} == {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}


def test_a_verifier_that_can_be_fooled_is_not_earned_by(tmp_path: Path) -> None:
    result = go(tmp_path, [stage(tasks=[{**TASK, "exact": False}])])
    assert "verifier 'accuracy' is weak" in result.stages[-1].message
    assert not (tmp_path / "runs/r/grpo/rollout-0000.jsonl.zst").exists()


def test_a_task_without_any_success_is_refused_before_the_first_update(tmp_path: Path) -> None:
    result = go(tmp_path, [stage(tasks=[{**TASK, "words": ["zebra"]}], pilot={"num_prompts": 48})])
    assert result.stages[-1].outcome == "gate_failed"
    assert "there is no success to learn from: 0.0% of 1536 answers are right" in result.stages[-1].message
    assert not (tmp_path / "runs/r/grpo/rollout-0000.jsonl.zst").exists()


def pilot(rights: list[int], size: int = 4) -> dict[str, Any]:
    records = [
        RolloutRecord(f"{g}-{n}", 0, g, "i", "t", "x", "y", "pilot", accuracy=float(n < right))
        for g, right in enumerate(rights)
        for n in range(size)
    ]
    return pilot_figures(records, size)


def test_the_pilot_tells_a_solved_task_from_a_hopeless_one() -> None:
    settings = PilotSettings(least_mixed=0.2)
    with pytest.raises(GateFailed, match=r"nothing is left to learn: 100\.0%"):
        refuse_hopeless(pilot([4] * 40), settings, "grpo")
    with pytest.raises(GateFailed, match=r"no success to learn from: 0\.0%"):
        refuse_hopeless(pilot([0] * 40), settings, "grpo")
    refuse_hopeless(pilot([4] * 30 + [2] * 10), settings, "grpo")
    refuse_hopeless(pilot([0] * 4), settings, "grpo")
    found = pilot([1, 3, 0, 4])
    assert (found["pass_rate"], found["mixed"]["share"]) == (0.5, 0.5)
    silent = [RolloutRecord("r", 0, 0, "i", "t", "x", "y", "pilot")] * 4
    with pytest.raises(GateFailed, match="judged none"):
        refuse_hopeless(pilot_figures(silent, 4), settings, "grpo")


@pytest.mark.parametrize(("way", "accuracy"), [("wrong", [0.0, 1.0]), ("mask", [1.0, 1.0]), ("as_is", [1.0, 1.0])])
def test_the_pilot_judges_answers_that_were_cut_as_training_does(way: Any, accuracy: list[float]) -> None:
    cut, whole = (Rollout("r", 0, (1,), (2,), (True,), (0.0,), truncated=is_cut) for is_cut in (True, False))
    played = [Played(cut, Trace("i0", "1")), Played(whole, Trace("i0", "1"))]
    player: Any = SimpleNamespace(play=lambda items, seeds, groups: played)
    records = sample_pilot(player, ITEMS[:1], Checks(), 2, 0, truncated=way)
    assert [record.accuracy for record in records] == accuracy
    assert [record.text for record in records] == ["1", "1"]


def verdict(num_items: int, difference: float, low: float, **exam: Any) -> Any:
    made = Grpo(validate(Grpo.Settings, {"tasks": ["arithmetic"], "exam": exam}, "grpo"))
    figures = {"num_items": num_items, "lift": {"difference": difference, "interval": {"low": low}}}
    return made.gate({"exam": figures, "base_unchanged": True})


def test_the_gate_wants_a_gain_that_is_sure() -> None:
    assert verdict(64, 0.2, 0.1).passed
    assert "rose by +20.0%, at least -1.0%" in verdict(64, 0.2, -0.01).reasons[0]
    assert not verdict(64, 0.2, 0.1, min_lift=0.15).passed
    few = verdict(8, 0.9, 0.8)
    assert not few.passed
    assert not few.decided
    changed = Grpo(validate(Grpo.Settings, {"tasks": ["arithmetic"]}, "grpo"))
    assert "base changed" in changed.gate({"base_unchanged": False}).reasons[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ["arithmetik"]}, "arithmetik"),
        ({"adapter": {"dropout": 0.1}}, "without dropout"),
        ({"sampling": {"temperature": 0.0}}, "greedy answers are all alike"),
        ({"engine": {"keep_logprobs": False}}, "what the sampler drew from"),
        ({"exam": {"num_samples": 4}}, "several greedy answers"),
        ({"rewards": {"parts": {"x": {"reward": "verifyed"}}}}, "verifyed"),
        ({"accuracy": "corect"}, "did you mean 'correct'"),
        ({"training": {"objective": "dappo"}}, "dappo"),
    ],
)
def test_what_cannot_work_is_told_before_any_work(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    values = {"run": "r", "model": "tiny:llama", "stages": [stage(**changes)]}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(SettingsError, match=words):
        recipes.load(path)


def test_a_recipe_that_names_model_task_and_sizes_is_planned(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    sizes = {"num_steps": 5, "prompts_per_step": 2, "group_size": 4}
    stages = [{"grpo": {"tasks": ["arithmetic"], "training": sizes}}]
    path.write_text(yaml.safe_dump({"run": "r", "model": "tiny:llama", "stages": stages}))
    rows = plan(recipes.load(path), tmp_path / "runs", Options(code=CLEAN))
    assert "at most" in str(rows)
    made = Grpo(validate(Grpo.Settings, {"tasks": ["arithmetic"], "training": sizes}, "grpo"))
    answers = 5 * 2 * 4 + 16 * 4 + 2 * 64
    assert made.units({}) == answers
    assert made.estimate({}).tokens == (answers + 5 * 2 * 4) * 64


def test_an_instruct_model_is_trained_only_on_purpose_and_says_so(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def loader(source: str, **keywords: Any) -> Any:
        asked.append(keywords)
        return load(source, precision="float32")

    small = {"num_steps": 1, "group_size": 8, "keep": "last"}
    few = {"pilot": {"num_prompts": 4, "least_mixed": 0.0}, "exam": {"num_items": 4}, "training": small}
    go(tmp_path / "a", [stage(**few)], ModelsKeeper(loader), force=frozenset({"grpo"}))
    go(tmp_path / "b", [stage(**few, instruct=True)], ModelsKeeper(loader), force=frozenset({"grpo"}))
    assert asked == [{}, {"clean": False, "strict": False}]
    assert [text for text in output(tmp_path / "b").manifest.bypasses if text.startswith("the model's guard")]
    assert not [text for text in output(tmp_path / "a").manifest.bypasses if text.startswith("the model's guard")]


ITEMS = [
    Item(f"i{n}", f"What is {n} + 1?", "sum", {"answer": str(n + 1), "checks": {"number": {"value": n + 1}}})
    for n in range(30)
]


def test_a_hidden_verifier_reads_each_items_own_answer() -> None:
    hidden = Hidden({"kind": "number", "value": "{answer}"})
    assert [s.value for s in hidden.score(ITEMS[:2], [Trace("i0", "1"), Trace("i1", "3")])] == [1.0, 0.0]


def test_the_watch_over_the_hidden_verifier_is_remembered() -> None:
    easy = SimpleNamespace(score=lambda items, traces: [SimpleNamespace(value=1.0, reason="") for _ in items])
    sat = SimpleNamespace(items=ITEMS, traces=[Trace(item.id, "no idea") for item in ITEMS])
    first = Watched(HiddenSettings(), easy, Hidden({"kind": "number", "value": "{answer}"}))
    assert first.observe(10, sat, Events()) == 0.0
    assert first.reasons() == ()
    second = Watched(HiddenSettings(), easy, Hidden({"kind": "number", "value": "{answer}"}))
    second.restore(first.state())
    second.observe(20, sat, Events())
    assert "100.0% and the hidden verifier 0.0%" in second.reasons()[0]


def test_an_answer_is_judged_once_for_the_reward_and_for_accuracy(monkeypatch: Any) -> None:
    asked: list[str] = []
    score = Checks.score

    def counted(self: Checks, items: Any, traces: Any) -> Any:
        asked.extend(trace.text for trace in traces)
        return score(self, items, traces)

    monkeypatch.setattr(Checks, "score", counted)
    settings = MixSettings.model_validate(
        {"parts": {"correct": {"reward": "verified"}, "short": {"reward": "brevity"}}}
    )
    judges = build_judges(settings, "")
    traces = [Trace("i0", "1"), Trace("i0", "1"), Trace("i0", "2")]
    assert [s.value for s in judges.accuracy.score(ITEMS[:1] * 3, traces)] == [1.0, 1.0, 0.0]
    judges.mix.mixed(ITEMS[:1] * 3, traces, [0, 0, 0])
    assert asked == ["1", "2"]
    assert set(judges.content) == {"correct"}
