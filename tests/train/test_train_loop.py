"""The whole of supervised fine-tuning on a tiny model: learning, resume, held-out loss, early stopping, bad input."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tokenizers
import torch

from rung.base.errors import BudgetSpent, DataError, Drift, ModelError, SettingsError, StorageError
from rung.base.events import Events
from rung.base.settings import validate
from rung.models.families.llama import Llama
from rung.models.layers.attend import CausalAttend
from rung.records.chat.frame import Rendered
from rung.records.packing import Example, hold_out, pack
from rung.records.tokenizer import Tokenizer
from rung.train import checkpoint
from rung.train.adapters import prepare, trainable
from rung.train.loop import TrainResult, train
from rung.train.objectives.cross_entropy import CrossEntropy
from rung.train.settings import AdapterSettings, SftSettings
from rung.train.step import accumulate, evaluate, train_step

END = 2
TOKENIZER = Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"<end>": END}, "<end>")), end_ids=(END,))
SILENT = Events()


class Heard:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.events: list[dict] = []

    def handle(self, event: dict) -> None:
        self.events.append(event)

    def close(self) -> None: ...

    def curve(self, name: str) -> list[tuple[int, float]]:
        return [(e["step"], e["value"]) for e in self.events if e["kind"] == "metric" and e["name"] == name]


def pairs(num: int, seed: int = 0) -> list[Example]:
    """Different prompts of uneven lengths, each with its own answer of uneven length and an end token."""
    draw = torch.Generator().manual_seed(seed)
    examples = []
    for i in range(num):
        prompt = torch.randint(10, 290, (3 + i % 5,), generator=draw).tolist()
        answer = [*torch.randint(10, 290, (2 + i % 4,), generator=draw).tolist(), END]
        mask = (False,) * len(prompt) + (True,) * len(answer)
        examples.append(Example(f"r{i}", Rendered((*prompt, *answer), mask, len(prompt))))
    return examples


def tiny(kind: str = "lora", dropout: float = 0.0) -> Llama:
    network = Llama.build(Llama.SIZES["tiny"], seed=0)
    prepare(network, AdapterSettings(kind=kind, rank=4, dropout=dropout), seed=0)
    return network


def go(network, examples, scratch: Path, on_step=lambda tokens: None, events=SILENT, **settings) -> TrainResult:
    chosen = SftSettings(**{"eval_fraction": 0.0, "sequences_per_step": 4, "tokens_per_micro_batch": 16, **settings})
    return train(network, TOKENIZER, examples, chosen, events=events, scratch=scratch, on_step=on_step)


def weights(network) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainable(network).items()}


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def greedy(network, prompt: list[int], num: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(num):
            row = torch.tensor([ids])
            hidden = network.hidden(row, torch.arange(len(ids))[None], CausalAttend())
            ids.append(int((hidden[0, -1] @ network.output_weight.T).argmax()))
    return ids[len(prompt) :]


def test_a_tiny_model_learns_32_pairs(tmp_path) -> None:
    network, examples = tiny("none"), pairs(32)
    result = go(
        network, examples, tmp_path, epochs=60, learning_rate=1e-2, sequences_per_step=16, tokens_per_micro_batch=256
    )
    assert result.final_loss < result.first_loss / 2
    hits = 0
    for example in examples:
        ids, cut = example.rendered.token_ids, example.rendered.num_prompt_tokens
        hits += greedy(network, list(ids[:cut]), len(ids) - cut) == list(ids[cut:])
    assert hits >= 28
    assert result.num_targets == 60 * sum(sum(e.rendered.loss_mask) for e in examples)


def gradients(network, rows) -> dict[str, torch.Tensor]:
    network.zero_grad()
    accumulate(network, rows, CrossEntropy(CrossEntropy.Settings()))
    return {name: p.grad.clone() for name, p in trainable(network).items()}


def test_micro_batches_have_the_gradient_of_one_batch() -> None:
    network, examples = tiny("none"), pairs(32)
    whole = gradients(network, pack(examples, 10_000))
    split = gradients(network, pack(examples, 20))
    assert len(pack(examples, 10_000)) == 1
    assert len(pack(examples, 20)) > 8
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, atol=1e-5, rtol=1e-4)


def test_a_packed_neighbour_changes_nothing() -> None:
    network, (first, second, other) = tiny("none"), pairs(3)
    loss = CrossEntropy(CrossEntropy.Settings())
    alone = [evaluate(network, pack([e], 100), loss) * sum(e.rendered.loss_mask) for e in (first, second, other)]
    together = evaluate(network, pack([first, second], 100), loss)
    counts = [sum(e.rendered.loss_mask) for e in (first, second, other)]
    assert together == pytest.approx((alone[0] + alone[1]) / (counts[0] + counts[1]), abs=1e-6)
    swapped = evaluate(network, pack([first, other], 100), loss)
    assert swapped * (counts[0] + counts[2]) - alone[2] == pytest.approx(alone[0], abs=1e-5)


def test_prompt_tokens_carry_no_loss_and_the_first_response_token_does() -> None:
    network, (example, *_) = tiny("none"), pairs(1)
    loss, cut = CrossEntropy(CrossEntropy.Settings()), example.rendered.num_prompt_tokens
    row = pack([example], 100)[0]
    before = evaluate(network, [row], loss)
    assert row.sources[0] == cut - 1
    for changed, differs in ((row.targets.copy(), False), (row.targets.copy(), True)):
        if differs:
            changed[0] += 1
        swapped = type(row)(**{f: getattr(row, f) for f in row.__dataclass_fields__} | {"targets": changed})
        assert (evaluate(network, [swapped], loss) != before) is differs
    mask = tuple(i > cut for i in range(len(example.rendered.token_ids)))
    shorter = Example("x", Rendered(example.rendered.token_ids, mask, cut))
    assert evaluate(network, pack([shorter], 100), loss) != pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 9])
def test_stopped_at_any_step_and_resumed_is_uninterrupted_to_the_bit(tmp_path, stop_at) -> None:
    examples, settings = pairs(13), {"epochs": 3, "eval_fraction": 0.2, "eval_interval": 2, "checkpoint_interval": 4}
    straight = tiny(dropout=0.3)
    whole = go(straight, examples, tmp_path / "a", **settings)
    count = itertools.count(1)

    def stop(num_tokens: int) -> None:
        if next(count) == stop_at:
            raise BudgetSpent("enough")

    with pytest.raises(BudgetSpent):
        go(tiny(dropout=0.3), examples, tmp_path / "b", on_step=stop, **settings)
    resumed = tiny(dropout=0.3)
    rest = go(resumed, examples, tmp_path / "b", **settings)
    assert rest.resumed_from == stop_at
    assert same(weights(straight), weights(resumed))
    assert (rest.losses, rest.validation, rest.num_tokens) == (whole.losses, whole.validation, whole.num_tokens)
    assert whole.num_steps == 9
    again = tiny(dropout=0.3)
    assert go(again, examples, tmp_path / "b", **settings).resumed_from == 9, "a finished run does nothing"
    assert same(weights(again), weights(straight))


def test_killed_without_warning_it_goes_on_from_the_last_checkpoint(tmp_path) -> None:
    """kill -9 of a process that has just written a checkpoint and is some steps further."""
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_train_loop import go, pairs, tiny
go(tiny(), pairs(12), Path(sys.argv[1]), on_step=lambda n: (print("step", flush=True), time.sleep(0.1)),
   epochs=6, checkpoint_interval=3)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "k")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(8):
        assert process.stdout.readline() == "step\n"
    time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed, straight = tiny(), tiny()
    rest = go(resumed, pairs(12), tmp_path / "k", epochs=6, checkpoint_interval=3)
    go(straight, pairs(12), tmp_path / "s", epochs=6)
    assert rest.resumed_from >= 6
    assert rest.resumed_from % 3 == 0
    assert same(weights(resumed), weights(straight))


def test_a_checkpoint_is_whole_before_the_old_one_goes(tmp_path, monkeypatch) -> None:
    seen: list[list[str]] = []
    publish = checkpoint.publish

    def watched(temporary: Path, final: Path) -> None:
        seen.append(sorted(p.name for p in final.parent.glob("checkpoint-*")))
        publish(temporary, final)

    monkeypatch.setattr(checkpoint, "publish", watched)
    go(tiny(), pairs(8), tmp_path, epochs=3, checkpoint_interval=2)
    assert seen[1] == ["checkpoint-00000002", "checkpoint-00000004.partial"]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-00000006"]


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch) -> None:
    go(tiny(), pairs(8), tmp_path, epochs=1, checkpoint_interval=1)
    kept = sorted(p.name for p in tmp_path.rglob("*"))

    def full(path: Path, data: bytes) -> None:
        raise StorageError("cannot write: no space left")

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    network = tiny()
    optimizer = torch.optim.AdamW(trainable(network).values())
    with pytest.raises(StorageError):
        checkpoint.save_checkpoint(tmp_path, checkpoint.TrainState("x", step=9), trainable(network), optimizer)
    assert sorted(p.name for p in tmp_path.rglob("*")) == kept


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tmp_path) -> None:
    go(tiny(), pairs(8), tmp_path, epochs=1)
    with pytest.raises(Drift, match="other settings, data"):
        go(tiny(), pairs(8), tmp_path, epochs=2)
    with pytest.raises(Drift):
        go(tiny(), pairs(8, seed=1), tmp_path, epochs=1)
    file = next(tmp_path.glob("checkpoint-*/weights.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        go(tiny(), pairs(8), tmp_path, epochs=1)


def test_an_overfitting_model_stops_and_gets_its_best_weights_back(tmp_path) -> None:
    heard, network = Heard(), tiny("none")
    result = go(
        network, pairs(20), tmp_path, epochs=60, learning_rate=2e-2, eval_fraction=0.2, eval_interval=2, patience=3,
        schedule="constant", events=Events([heard]),
    )  # fmt: skip
    assert result.stopped_early
    assert result.num_steps < 240
    best_step, best_loss = min(result.validation, key=lambda point: point[1])
    assert result.final_step == best_step == result.num_steps - 3 * 2
    held = [e for e in pairs(20) if e.id not in trained_ids(pairs(20), 0.2)]
    rows = pack(held, 16)
    assert evaluate(network, rows, CrossEntropy(CrossEntropy.Settings())) == pytest.approx(best_loss, abs=1e-6)
    assert heard.curve("sft/held_out_loss") == list(result.validation)
    assert [step for step, _ in result.validation] == list(range(0, result.num_steps + 1, 2))
    assert result.num_held_out == 4


def trained_ids(examples, fraction: float) -> set[str]:
    return {e.id for e in hold_out(examples, fraction, 0)[0]}


def test_curves_and_warnings_are_told(tmp_path) -> None:
    heard = Heard()
    long = Example("long", Rendered((*range(10, 40), END), (False,) * 3 + (True,) * 28, 3))
    result = go(tiny(), [*pairs(7), long], tmp_path, epochs=2, max_tokens=12, events=Events([heard]))
    assert result.data.truncated_ids == ("long",)
    warning = next(e for e in heard.events if e["kind"] == "log")
    assert warning["level"] == "warning"
    assert warning["truncated_ids"] == ["long"]
    assert heard.curve("sft/loss") == list(result.losses)
    assert len(heard.curve("sft/learning_rate")) == result.num_steps == 4
    assert [e["done"] for e in heard.events if e["kind"] == "progress"] == [1, 2, 3, 4]


def test_clipping_bounds_the_update_and_the_report_is_before_it() -> None:
    network, rows = tiny("none"), pack(pairs(4), 100)
    optimizer, loss = torch.optim.SGD(trainable(network).values(), lr=1.0), CrossEntropy(CrossEntropy.Settings())
    before = weights(network)
    report = train_step(network, optimizer, rows, loss, learning_rate=1.0, clip=0.01)
    moved = torch.cat([(before[n] - p).detach().flatten() for n, p in trainable(network).items()]).norm()
    assert report.grad_norm > 0.01
    assert float(moved) == pytest.approx(0.01, rel=1e-3)
    assert report.num_tokens == sum(len(e.rendered.token_ids) for e in pairs(4))


def test_divergence_leaves_the_weights_alone() -> None:
    network, rows = tiny("none"), pack(pairs(4), 100)
    with torch.no_grad():
        network.model.norm.weight[0] = float("nan")
    before = network.model.layers[0].mlp.up_proj.weight.detach().clone()
    optimizer = torch.optim.SGD(trainable(network).values(), lr=1.0)
    with pytest.raises(ModelError, match="diverged"):
        train_step(network, optimizer, rows, CrossEntropy(CrossEntropy.Settings()), learning_rate=1.0, clip=1.0)
    assert torch.equal(network.model.layers[0].mlp.up_proj.weight, before)


def test_bfloat16_runs_beside_float32_weights(tmp_path) -> None:
    network = tiny()
    result = go(network, pairs(8), tmp_path, epochs=2, precision="bfloat16")
    exact = go(tiny(), pairs(8), tmp_path / "e", epochs=2)
    assert result.final_loss != exact.final_loss
    assert result.final_loss == pytest.approx(exact.final_loss, rel=0.02)
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_a_network_without_trained_parameters_is_refused(tmp_path) -> None:
    network = tiny().requires_grad_(False)
    with pytest.raises(ModelError, match="no parameter is trained"):
        go(network, pairs(4), tmp_path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": 0}, "learning_rate"),
        ({"patience": 2, "eval_fraction": 0}, "patience needs held-out"),
        ({"optimizer": "adamx"}, "adamx"),
        ({"objective": {"kind": "entropy"}}, "entropy"),
        ({"epoch": 2}, "unknown key 'epoch'"),
    ],
)
def test_impossible_settings_are_refused(values, words) -> None:
    with pytest.raises(SettingsError, match=words):
        validate(SftSettings, values, "stages.sft")


def test_a_part_with_impossible_settings_is_refused_before_any_step(tmp_path) -> None:
    network = tiny()
    before = weights(network)
    for settings, words in (
        ({"objective": {"kind": "cross_entropy", "label_smoothing": 1.5}}, "label_smoothing"),
        ({"optimizer": {"kind": "adamw", "beta1": 1.0}}, "beta1"),
    ):
        with pytest.raises(SettingsError, match=words):
            go(network, pairs(4), tmp_path, **settings)
    assert same(weights(network), before)
