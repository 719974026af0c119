"""From files to a pretrained model in one run: the stages of recipes/pretrain.yaml on a tiny scale (items 200-208)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pipeline_toys import CLEAN
from safetensors.torch import load_file

from rung.app.models_keeper import ModelsKeeper
from rung.base.errors import BudgetSpent
from rung.models.layers.attend import CausalAttend
from rung.models.load import load
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.stage import Context
from rung.records.manifest import Opened, open_manifest
from rung.records.token_shards import TokenShard
from rung.records.tokenizer import Tokenizer

TRAINING = {
    "epochs": 2, "sequences_per_step": 8, "max_tokens": 64, "eval_interval": 8, "learning_rate": 1e-2,
    "tokens_per_micro_batch": 256, "checkpoint_interval": 5,
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of one test is no other's."""
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path_factory.mktemp("cache")))


def story(number: int) -> str:
    """Simple and different: a tiny model can learn what comes next."""
    draw = np.random.default_rng(number)
    names, things, places = (
        "Tom Anna Ben Lily Max Sue".split(),
        "ball hat cake boat kite".split(),
        "park wood town".split(),
    )
    lines = [
        f"{draw.choice(names)} saw a {draw.choice(things)} in the {draw.choice(places)} and took {number % 97} steps."
        for _ in range(6)
    ]
    return "\n".join(lines)


def write_corpus(folder: Path, count: int = 120, files: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(files):
        rows = [json.dumps({"text": story(number)}) for number in range(index, count, files)]
        (folder / f"part{index}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def stages(data: Path, **training: Any) -> list[dict[str, Any]]:
    return [
        {"corpus": {"sources": [{"kind": "files", "path": str(data)}], "near": {"similarity": 1.0}, "clear_of": []}},
        {"tokenizer": {"corpus": "corpus", "trainer": {"vocabulary": 320}, "held_out": 0.1}},
        {"tokens": {"corpus": "corpus", "tokenizer": "tokenizer", "held_out": 0.1}},
        {"pretrain": {
            "tokens": "tokens", "network": {"size": "tiny", "change": {"num_layers": 1}},
            "training": {**TRAINING, **training}, "samples": {"prompts": ["", "Tom"], "max_new_tokens": 8},
        }},
    ]  # fmt: skip


def go(folder: Path, chosen: list[dict[str, Any]], **options: Any) -> RunResult:
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump({"run": "r", "seed": 3, "stages": chosen}))
    return run(recipes.load(path), folder / "runs", ModelsKeeper(), Options(**{"code": CLEAN, **options}))


def output(folder: Path, name: str) -> Opened:
    opened = open_manifest(folder / "runs/r" / name)
    opened.verify()
    return opened


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_CACHE", str(folder / "cache"))
        result = go(folder, stages(write_corpus(folder / "data")))
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    return folder


def test_held_out_bits_per_byte_fall_and_every_evaluation_is_kept(done: Path) -> None:
    manifest = output(done, "pretrain").manifest
    figures = manifest.figures
    assert figures["bits_per_byte"] < 0.6 * figures["first_bits_per_byte"]
    steps = [step for step, _ in figures["curves"]["held_out_bits_per_byte"]]
    assert steps[:3] == [0, 8, 16]
    assert steps[-1] == figures["num_steps"]
    assert len(manifest.shards["sample"]) == len(steps)
    samples = list(output(done, "pretrain").records("sample"))
    assert [s.meta["step"] for s in samples] == [step for step in steps for _ in range(4)]
    assert all("distinct_3" in s.meta["round"] for s in samples)
    assert manifest.model["num_parameters"] > 10_000


def test_bits_per_byte_are_those_of_the_documents_alone(done: Path) -> None:
    """Computed anew, one document at a time without windows that cut any of them."""
    loaded = load(f"dir:{done / 'runs/r/pretrain/model'}", precision="float32", clean=False, strict=False)
    shard = TokenShard(done / "runs/r/tokens/tokens", "held_out", 320)
    texts = [r.text for r in output(done, "corpus").records("document") if int(r.id, 16) in set(shard.keys().tolist())]
    whole = stages(done / "data", max_tokens=4096)
    assert len(texts) == shard.num_documents > 3
    nats = 0.0
    for text in texts:
        ids = torch.tensor([[*loaded.tokenizer.start_ids, *loaded.tokenizer.encode(text), *loaded.tokenizer.end_ids]])
        hidden = loaded.network.hidden(ids, torch.arange(ids.shape[1])[None], CausalAttend())
        logs = torch.log_softmax(hidden[0, :-1] @ loaded.network.output_weight.T, -1)
        nats -= float(logs.gather(1, ids[0, 1:, None]).sum())
    bits = nats / sum(len(text.encode()) for text in texts) / np.log(2)
    folder = done / "whole"
    folder.mkdir(exist_ok=True)
    assert go(folder, whole).exit_code == 0
    assert output(folder, "pretrain").manifest.figures["first_bits_per_byte"] > bits
    assert output(done, "pretrain").manifest.figures["bits_per_byte"] == pytest.approx(bits, rel=0.2)


def test_the_published_model_is_a_source_and_its_tokenizer_the_trained_one(done: Path) -> None:
    folder = done / "runs/r/pretrain/model"
    loaded = load(f"dir:{folder}", precision="float32", clean=False, strict=False)
    assert loaded.family == "llama"
    trained = Tokenizer.load(output(done, "tokenizer").file("tokenizer"))
    assert loaded.tokenizer.encode("Tom saw a ball") == trained.encode("Tom saw a ball")
    by_run = load(f"run:{done / 'runs/r/pretrain'}", precision="float32", clean=False, strict=False)
    weights = by_run.network.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in loaded.network.state_dict().items())
    assert loaded.tokenizer.start_ids == (1,)
    assert loaded.tokenizer.end_ids == (2,)


def test_stopped_anywhere_and_resumed_it_is_the_same_to_the_bit(done: Path, tmp_path: Path, monkeypatch: Any) -> None:
    for stop_at in (3, 8):
        folder = tmp_path / str(stop_at)
        folder.mkdir()
        stopping(monkeypatch, stop_at)
        assert go(folder, stages(done / "data")).stages[-1].outcome == "budget"
        monkeypatch.undo()
        assert go(folder, stages(done / "data")).exit_code == 0
        for name in ("model/model.safetensors",):
            assert same(load_file(done / "runs/r/pretrain" / name), load_file(folder / "runs/r/pretrain" / name))
        one, other = (output(f, "pretrain").manifest for f in (done, folder))
        assert one.figures["curves"] == other.figures["curves"]
        assert [s.records_sha256 for s in one.shards["sample"]] == [s.records_sha256 for s in other.shards["sample"]]


def stopping(monkeypatch: Any, stop_at: int) -> None:
    """The budget is spent after so many steps of training."""
    before, calls = Context.__init__, iter(range(10_000))

    def limited(self: Context, *arguments: Any, **keywords: Any) -> None:
        """With a budget that counts."""
        before(self, *arguments, **keywords)
        spend = self.budget.spend

        def stop(tokens: float = 0.0, **more: Any) -> None:
            """Of this stage alone."""
            spend(tokens=tokens, **more)
            if self.name == "pretrain" and next(calls) == stop_at - 1:
                raise BudgetSpent("enough for today")

        monkeypatch.setattr(self.budget, "spend", stop)

    monkeypatch.setattr(Context, "__init__", limited)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_file_added_is_the_only_one_that_is_read_and_encoded(done: Path, tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "data", count=60)
    fixed = {"corpus": "corpus", "tokenizer_file": str(done / "runs/r/tokenizer/tokenizer.json"), "held_out": 0.1}
    chosen = [stages(data)[0], {"tokens": fixed}]
    assert go(tmp_path, chosen).exit_code == 0
    first, encoded = (output(tmp_path, name).manifest.figures for name in ("corpus", "tokens"))
    assert (first["num_pieces"], first["num_new_pieces"], encoded["num_new_documents"]) == (4, 4, 60)
    rows = [json.dumps({"text": story(number)}) for number in range(1000, 1010)]
    (data / "part9.jsonl").write_text("\n".join(rows) + "\n")
    refused = go(tmp_path, chosen)
    assert refused.outcome == "drift", "another corpus is not taken for the old one"
    assert "part9.jsonl" in str(refused.error)
    assert go(tmp_path, chosen, rebuild=frozenset({"corpus", "tokens"})).exit_code == 0
    again, encoded = (output(tmp_path, name).manifest.figures for name in ("corpus", "tokens"))
    assert (again["num_pieces"], again["num_new_pieces"], encoded["num_new_documents"]) == (5, 1, 10)
    assert output(tmp_path, "corpus").count("document") == 70


def test_what_is_left_out_is_counted_and_shown(tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "data", count=20)
    bench = tmp_path / "bench.jsonl"
    planted = "a function that counts how many of the given words begin with a capital letter and end in one"
    bench.write_text(json.dumps({"text": planted}) + "\n")
    (data / "z.jsonl").write_bytes(
        b'{"text": "bro\xffken"}\n{"text": 3}\n'
        + "".join(json.dumps({"text": text}) + "\n" for text in (story(5), f"x = 1\n# A {planted}")).encode()
    )
    corpus = stages(data)[0]["corpus"] | {"clear_of": [{"file": str(bench)}], "max_broken": 0.2}
    assert go(tmp_path, [{"corpus": corpus}]).exit_code == 0
    opened = output(tmp_path, "corpus")
    assert opened.manifest.drops == {"contaminated": 1, "broken_utf8": 1, "not_text": 1, "exact_repeat": 1}
    drops = {drop.reason: drop for drop in opened.records("drop")}
    assert drops["contaminated"].detail["benchmark"] == "bench"
    assert drops["broken_utf8"].id == "z.jsonl:1"
    assert opened.count("document") == 20
    strict = go(tmp_path, [{"corpus": {**corpus, "max_broken": 0.01}}], rebuild=frozenset({"corpus"}))
    assert strict.outcome == "gate"
    assert "could not be read" in str(strict.error)


def test_a_model_that_overfits_stops_and_is_published_at_its_best(tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "data", count=30)
    chosen = stages(
        data, epochs=60, patience=2, learning_rate=2e-2, schedule="constant", max_windows=8, eval_interval=4
    )
    result = go(tmp_path, chosen)
    assert result.exit_code == 0, str(result.error)
    figures = output(tmp_path, "pretrain").manifest.figures
    assert figures["stopped_early"]
    best = min(figures["curves"]["held_out_bits_per_byte"], key=lambda point: point[1])
    assert best == [figures["final_step"], figures["bits_per_byte"]]
    assert figures["num_steps"] == figures["final_step"] + 2 * 4


def test_impossible_networks_are_refused_before_any_work(tmp_path: Path) -> None:
    chosen = stages(write_corpus(tmp_path / "data", count=8))
    chosen[3]["pretrain"]["network"] = {"family": "lama"}
    with pytest.raises(Exception, match="no family is called 'lama'"):
        go(tmp_path, chosen)
