"""SFT, pairs, DPO and evaluation in one run on a tiny model (items 93, 133, 135, 144), and their gates."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pipeline_script import ScriptedModels
from pipeline_toys import CLEAN

from rung.app.models_keeper import ModelsKeeper
from rung.base.errors import BudgetSpent, GateFailed
from rung.base.events import Events
from rung.base.settings import Field, Settings, validate
from rung.datagen.assemble import choose, sft_record
from rung.datagen.preferences import LengthSettings, pair_figures
from rung.models.load import load
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.stage import Context, Stage
from rung.pipeline.stages.dpo import Dpo
from rung.pipeline.stages.pairs import Pairs
from rung.records.contracts import Request
from rung.records.manifest import Manifest, Opened, open_manifest
from rung.records.scripted import Scripted
from rung.records.shards import write_shard
from rung.records.types import Candidate, Critique, PreferencePair
from rung.train.adapters import base_hash

THINGS = "lamp table chair river cloud stone window garden bottle pencil carpet engine".split()
PLACES = "harbour meadow bridge market library station".split()
METADATA = {"loader_version": "1", "model_name": "tiny", "git_commit": CLEAN.commit}


class ToyData(Stage):
    """Instructions with four judged candidates each; short ones are better. `lacks` names metadata left out."""

    class Settings(Settings):
        """How many, and what is missing."""

        count: int = Field(60, ge=1, description="instructions")
        lacks: str = Field("", description="a key left out of the last record's metadata")

    outputs = {"candidate": "candidate", "sft": "sft"}

    def run(self, context: Context, inputs: Any, outputs: Any) -> None:
        """Two shards."""
        for shard in range(2):
            groups = [_group(number, shard) for number in range(shard, self.settings.count, 2)]
            records = [sft_record(group[0], group[1:], METADATA) for group in groups]
            if shard and self.settings.lacks:
                records[-1].metadata.pop(self.settings.lacks)
            outputs.shard("candidate", shard, [one for group in groups for one in group])
            outputs.shard("sft", shard, records)

    def figures(self, output: Opened) -> dict[str, Any]:
        """Something that stands for quality control."""
        return {"qc": {"records": output.count("sft")}}


def _group(number: int, shard: int) -> list[Candidate]:
    thing, place = THINGS[number % 12], PLACES[number // 12 % 6]
    made = []
    for n, (text, margin) in enumerate(
        [("yes it is", 3.0), ("no no no no no", -1.0), ("no no", 0.5), ("no no no", 2.95)]
    ):
        critique = Critique("planted", margin > 0, True, "A", margin, 0.0, abs(margin), margin, 0.1)
        made.append(
            Candidate(
                f"c{number}-{n}", f"i{number}", f"Is the {thing} near the {place}?", "classification", "p", number,
                text, text, text, "stop", 5, 2 + len(text.split()), pair_critique=critique, shard=shard,
            )
        )  # fmt: skip
    return choose(made)


BOTH = ["probe.raw", "probe.framed", "evaluate.answer"]
TRAINING = {"learning_rate": 5e-3, "epochs": 2, "sequences_per_step": 8, "schedule": "constant"}


def ladder(**changes: Any) -> list[dict[str, Any]]:
    suite = {"kind": "instruction_following", "count": 12}
    limits = {"suite": suite, "max_new_tokens": 4}
    dpo = {
        "model": "sft", "data": "pairs", "num_answers": 4, "max_new_tokens": 8, "adapter": {"rank": 8},
        "training": {**TRAINING, "eval_fraction": 0.2, "eval_interval": 6}, **changes.get("dpo", {}),
    }  # fmt: skip
    return [
        {"test_pipeline_dpo:ToyData": {"name": "data", **changes.get("data", {})}},
        {"probe": limits},
        {"sft": {"data": "data", "adapter": {"rank": 4}, "training": {**TRAINING, "eval_fraction": 0.0}}},
        {"pairs": {"data": "data", "negatives": {"per_record": 0}, **changes.get("pairs", {})}},
        {"dpo": dpo},
        {"evaluate": {"model": "dpo", **limits}},
        {"evaluate": {"name": "both", "model": "sft", "label": "sft", "against": BOTH, **limits}},
    ]


def models() -> ModelsKeeper:
    return ModelsKeeper(functools.partial(load, precision="float32"))


def go(folder: Path, stages: list[dict[str, Any]], keeper: Any = None, **options: Any) -> RunResult:
    path = folder / "recipe.yaml"
    path.parent.mkdir(exist_ok=True)
    values = {"run": "r", "model": "tiny:llama", "seed": 3, "stages": stages, "budget": options.pop("budget", {})}
    path.write_text(yaml.safe_dump(values))
    recipe = recipes.load(path)
    forced = frozenset({"probe", "evaluate", "both"} & {spec.name for spec in recipe.stages})
    return run(recipe, folder / "runs", keeper or models(), Options(code=CLEAN, force=forced, **options))


def output(folder: Path, stage: str) -> Opened:
    return open_manifest(folder / "runs" / "r" / stage)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    result = go(folder, ladder())
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    return folder


def test_item_133_all_manifests_of_the_run_are_linked_by_hash(done: Path) -> None:
    found = {name: output(done, name).manifest for name in ("data", "sft", "pairs", "dpo", "evaluate")}
    assert found["dpo"].parents["trained"] == found["sft"].fingerprint
    assert found["dpo"].parents["data"] == found["pairs"].fingerprint
    assert found["pairs"].parents["data"] == found["sft"].parents["data"] == found["data"].fingerprint
    assert set(found["dpo"].inputs_content) == {"trained", "data"}
    assert found["evaluate"].parents["trained"] == found["dpo"].fingerprint
    assert output(done, "evaluate").count("answer") == 12


def test_two_trained_models_stand_side_by_side_in_one_comparison(done: Path) -> None:
    found = output(done, "both").manifest
    rows = {row["condition"] for row in found.figures["comparison"]["conditions"]}
    assert rows == {"raw", "framed", "tuned", "tuned:sft"}
    compared = {(row["first"], row["second"]) for row in found.figures["comparison"]["pairs"]}
    assert ("tuned", "tuned:sft") in compared
    assert any("tuned:sft" in line for line in found.figures["release"]["evidence"])
    assert found.parents["against.evaluate"] == output(done, "evaluate").manifest.fingerprint


def test_pairs_come_from_the_rejected_siblings_without_a_model_call(done: Path) -> None:
    opened = output(done, "pairs")
    pairs: list[PreferencePair] = list(opened.records("pair"))
    assert len(pairs) == 2 * 60
    assert {(pair.chosen, pair.kind) for pair in pairs} == {("yes it is", "best_of_n")}
    assert {pair.rejected for pair in pairs} == {"no no no no no", "no no"}
    figures = opened.manifest.figures["qc"]
    assert figures["drops"] == {"best_of_n: low_confidence": 60}
    assert figures["lengths"]["median_chosen"] == 5.0
    assert figures["lengths"]["median_rejected"] == 5.5
    assert "report" not in opened.manifest.model, "no model was loaded"
    assert opened.manifest.spend["tokens"] == 0


def test_held_out_pairs_are_told_apart_and_the_reference_is_what_it_was(done: Path) -> None:
    opened = output(done, "dpo")
    figures = opened.manifest.figures
    rewards = list(opened.records("reward"))
    assert figures["accuracy"]["n"] == len(rewards) == figures["num_held_out"] == 24
    assert figures["accuracy"]["rate"] == sum(one.won for one in rewards) / 24 >= 0.8
    assert figures["accuracy"]["low"] > 0.5
    assert figures["reference_unchanged"] is True
    assert figures["curves"]["held_out_loss"][0][1] == pytest.approx(0.693147, abs=1e-5)
    assert set(figures["answer_tokens"]) == {"median_before", "median_after", "ratio", "n"}
    assert {one.id for one in rewards} < {pair.id for pair in output(done, "pairs").records("pair")}


def test_the_published_adapter_is_for_the_base_model_and_holds_both(done: Path) -> None:
    adapter = output(done, "dpo").file("adapter").parent
    values = json.loads((adapter / "adapter_config.json").read_text())
    assert (values["r"], values["lora_alpha"]) == (4 + 8, 12.0)
    keeper = models()
    plain = base_hash(keeper.load("tiny:llama").network)
    assert base_hash(keeper.load("tiny:llama", adapter).network) == plain


def test_a_finished_run_is_skipped(done: Path, outcomes: Callable[[RunResult], list[str]]) -> None:
    assert set(outcomes(go(done, ladder()))) <= {"skipped", "forced"}


def test_stopped_in_training_it_goes_on_to_the_same_adapter(done: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def adapter(folder: Path) -> bytes:
        return (output(folder, "dpo").file("adapter").parent / "adapter_model.safetensors").read_bytes()

    stages, calls = ladder()[:-1], iter(range(10_000))
    before = Context.__init__

    def limited(self: Context, *arguments: Any, **keywords: Any) -> None:
        before(self, *arguments, **keywords)
        if self.name != "dpo":
            return
        spend = self.budget.spend

        def stop(tokens: float = 0.0, **more: Any) -> None:
            spend(tokens=tokens, **more)
            if next(calls) == 24:
                raise BudgetSpent("enough for today")

        monkeypatch.setattr(self.budget, "spend", stop)

    monkeypatch.setattr(Context, "__init__", limited)
    stopped = go(tmp_path, stages)
    assert {s.name: s.outcome for s in stopped.stages}["dpo"] == "budget"
    assert list((tmp_path / "runs/r/dpo/.work/scratch").glob("checkpoint-*")), "it was stopped in training"
    monkeypatch.undo()
    assert go(tmp_path, stages).exit_code == 0
    assert adapter(tmp_path) == adapter(done)


@pytest.mark.parametrize("key", ["loader_version", "model_name", "git_commit", "seed"])
def test_item_93_pairs_without_provenance_are_not_trained_on(tmp_path: Path, key: str) -> None:
    metadata = {name: value for name, value in {**METADATA, "seed": 1}.items() if name != key}
    pair = PreferencePair("p", "i", "t", "p", "a", "b", "best_of_n", "s", "s", metadata=metadata)
    manifest = Manifest(
        run="r", name="pairs", stage="pairs", stage_version=1, fingerprint="x", identity="x", settings={},
        shards={"pair": [write_shard(tmp_path, "pair-0000.jsonl.zst", "pair", [pair])]}, figures={"qc": {"n": 1}},
        gate={"passed": True}, code=CLEAN, started="", ended="", outcome="done",
    )  # fmt: skip
    stage = Dpo(validate(Dpo.Settings, {"model": "sft", "data": "pairs"}, "dpo"))
    with pytest.raises(GateFailed, match=f"no {key}"):
        stage.run(SimpleNamespace(bypasses=()), {"data": Opened(tmp_path, manifest)}, None)


def test_item_93_data_without_provenance_make_no_pairs(tmp_path: Path) -> None:
    result = go(tmp_path, [ladder(data={"lacks": "git_commit"})[0], ladder()[3]], ScriptedModels())
    assert "no git_commit" in result.stages[-1].message
    assert output(tmp_path, "data").count("sft") == 60
    assert not (tmp_path / "runs/r/pairs/manifest.json").exists()


def verdict(kind: type[Stage], figures: dict[str, Any], **settings: Any) -> Any:
    return kind(validate(kind.Settings, {"data": "d", **settings}, "stage")).gate(figures)


class Heard:
    """A sink that keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def handle(self, event: dict[str, Any]) -> None:
        if event.get("level") == "warning":
            self.warnings.append(event["message"])

    def close(self) -> None: ...


def test_item_144_drifting_lengths_are_warned_about(tmp_path: Path) -> None:
    heard = Heard()
    stages = [ladder()[0], ladder(pairs={"lengths": {"warn_ratio": 1.05}})[3]]
    assert go(tmp_path, stages, ScriptedModels(), sinks=(heard,)).exit_code == 0
    assert [text for text in heard.warnings if "times as long" in text]
    stage = Dpo(validate(Dpo.Settings, {"model": "m", "data": "d", "warn_ratio": 1.5}, "dpo"))
    context, heard.warnings = SimpleNamespace(events=Events([heard])), []
    found = stage._compared(context, {"before": [4, 6, 8], "after": [20, 24, 28]})
    assert (found["median_before"], found["median_after"], found["ratio"]) == (6.0, 24.0, 4.0)
    assert "median 6 tokens before, 24 after" in heard.warnings[0]
    stage._compared(context, {"before": [4, 6, 8], "after": [7, 7, 7]})
    assert len(heard.warnings) == 1
    assert stage._compared(context, {"before": [], "after": []}) == {}


def rewards(n: int, low: float) -> dict[str, Any]:
    return {
        "accuracy": {"n": n, "rate": 0.6, "low": low, "high": 0.9}, "final_loss": 0.5, "reference_unchanged": True,
    }  # fmt: skip


def test_the_gate_of_dpo_wants_an_accuracy_that_is_surely_over_its_limit() -> None:
    assert verdict(Dpo, rewards(40, 0.55), model="m").passed
    assert "not over 0.5" in verdict(Dpo, rewards(40, 0.45), model="m").reasons[0]
    few = verdict(Dpo, rewards(10, 0.55), model="m")
    assert not few.passed
    assert not few.decided
    changed = verdict(Dpo, {**rewards(40, 0.55), "reference_unchanged": False}, model="m")
    assert "reference changed" in changed.reasons[0]


def written(request: Request) -> str:
    """Negatives as asked for, by the kind in the request's id."""
    kind = request.id.rpartition("-")[0]
    place = request.text.rpartition("near the ")[2].partition("?")[0]
    return {
        "unwarranted_refusal": f" I cannot talk about the {place}.",
        "format_violation": f" 1. Is it near?\n2. The {place} is near.",
        "wrong_fact": f" Never at the {place}.",
        "off_topic": f" Socks number {request.seed % 97} are green.",
        "verbose": f" Well, there is a lot to say about every {place} in this town, so let me begin at the beginning.",
    }[kind] + "\n###END###"


def test_negatives_are_written_by_the_model_in_their_shares(tmp_path: Path, monkeypatch: Any) -> None:
    engines: list[Scripted] = []

    def open_engine(context: Any, outputs: Any, settings: Any) -> Scripted:
        outputs.note("model", {"report": {"verdict": "clean"}})
        engines.append(Scripted(written))
        return engines[-1]

    monkeypatch.setattr("rung.pipeline.stages.pairs.open_engine", open_engine)
    stages = [ladder()[0], {"pairs": {"data": "data", "max_share_drift": 0.02}}]
    result = go(tmp_path, stages, ScriptedModels())
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    opened = output(tmp_path, "pairs")
    figures = opened.manifest.figures
    assert figures["shortfall"] == {}
    assert figures["qc"]["kinds"]["best_of_n"] == 120
    assert figures["qc"]["kinds"]["unwarranted_refusal"] == 18
    assert len(engines) == 1
    sent = {request.text for request in engines[0].requests}
    assert {one.prompt for one in opened.records("candidate")} == sent
    assert opened.manifest.spend["tokens"] > 0


def test_negatives_that_end_at_the_cap_are_kept(tmp_path: Path, monkeypatch: Any) -> None:
    def open_engine(context: Any, outputs: Any, settings: Any) -> Scripted:
        """A model that writes everything in one round."""
        outputs.note("model", {"report": {"verdict": "clean"}})
        return Scripted(written)

    monkeypatch.setattr("rung.pipeline.stages.pairs.open_engine", open_engine)
    stages = [ladder()[0], {"pairs": {"data": "data", "max_share_drift": 0.02}}]
    assert go(tmp_path / "free", stages, ScriptedModels()).exit_code == 0
    spent = output(tmp_path / "free", "pairs").manifest.spend["tokens"]
    capped = go(tmp_path / "capped", stages, ScriptedModels(), budget={"tokens": spent})
    assert capped.exit_code == 0, [(s.name, s.outcome, s.message) for s in capped.stages]
    assert output(tmp_path / "capped", "pairs").manifest.shards == output(tmp_path / "free", "pairs").manifest.shards


def figures_of(kinds: dict[str, int], tokens: tuple[int, int] = (5, 6)) -> dict[str, Any]:
    pairs = [
        PreferencePair(f"{kind}{n}", "i", "t", "p", "a", f"b{n}", kind, "s", "s", None, None, "", "", *tokens)
        for kind, count in kinds.items()
        for n in range(count)
    ]
    return {"qc": json.loads(json.dumps(pair_figures(pairs, [], LengthSettings()), default=_plain))}


def _plain(value: Any) -> Any:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def test_the_gate_of_pairs_looks_at_counts_shares_and_lengths() -> None:
    good = {"best_of_n": 10, "off_topic": 10, "verbose": 10}
    asked = {"negatives": {"shares": {"off_topic": 0.5, "verbose": 0.5}}}
    assert verdict(Pairs, figures_of(good), **asked).passed
    assert "at least 40" in verdict(Pairs, figures_of(good), min_pairs=40, **asked).reasons[0]
    drifted = verdict(Pairs, figures_of({"best_of_n": 10, "off_topic": 19, "verbose": 1}), **asked)
    assert [reason.split()[2] for reason in drifted.reasons] == ["off_topic", "verbose"]
    assert "times as long" in verdict(Pairs, figures_of(good, (2, 20)), **asked).reasons[0]
    none_wanted = {"negatives": {"per_record": 0}}
    assert verdict(Pairs, figures_of({"best_of_n": 30}), **none_wanted).passed


def test_a_critic_judges_negatives_when_a_calibration_is_named() -> None:
    stage = Pairs(validate(Pairs.Settings, {"data": "d", "calibration": "calibrate"}, "pairs"))
    assert stage.inputs() == {"data": "d", "calibration": "calibrate"}
    lent = stage._lent(SimpleNamespace(name="pairs"), Scripted([]), "the critic")
    assert lent.critic == "the critic"
    assert [name for name, _ in lent.filters] == ["cleaning", "runaway", "garbage", "repetition"]
