"""Half precision: losses that stay close, a scale that survives overflows, and a run that goes on as if never killed
(item 196)."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_ranks import TOKENIZER, examples, network, rows, settings

from rung.base.errors import BudgetSpent, ModelError
from rung.base.events import Events
from rung.models.families.coder import Coder
from rung.models.network import Network
from rung.train import loop, loss_scale
from rung.train.adapters import prepare, trainable
from rung.train.loop import TrainResult, train
from rung.train.loss_scale import LossScale
from rung.train.objectives.cross_entropy import CrossEntropy
from rung.train.settings import AdapterSettings
from rung.train.step import StepReport, train_step

LOSS = CrossEntropy(CrossEntropy.Settings())
TOO_LARGE = LossScale(2.0**40)
# of a tiny network: a few steps overflow, then it fits
LARGE = 2.0**24


class Heard:
    """A sink that keeps the metrics."""

    def __init__(self) -> None:
        self.metrics: list[tuple[str, float, int]] = []

    def handle(self, event: dict[str, Any]) -> None:
        """Keep it."""
        if event["kind"] == "metric":
            self.metrics.append((event["name"], event["value"], event["step"]))

    def close(self) -> None:
        """Nothing is held."""


def step(made: Network, optimizer: torch.optim.Optimizer, scale: LossScale | None, **own: Any) -> StepReport:
    values: dict[str, Any] = {"learning_rate": 1e-2, "clip": 1.0, "precision": "float16", **own}
    return train_step(made, optimizer, rows(120), LOSS, scale=scale, **values)


def state(made: Network, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All that a step may change."""
    kept = [*trainable(made).values(), *(made.balance.state.values() if made.balance is not None else ())]
    moments = [x for one in optimizer.state.values() for x in one.values() if isinstance(x, Tensor)]
    return [tensor.detach().clone() for tensor in (*kept, *moments)]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def go(scratch: Path, on_step: Any = lambda tokens: None, events: Events | None = None, **own: Any) -> Any:
    made = network(own.pop("family", "llama"), own.pop("kind", "none"))
    chosen = settings({}, **{"precision": "float16", "epochs": 2, **own})
    heard = events or Events()
    return made, train(made, TOKENIZER, examples(), chosen, events=heard, scratch=scratch, on_step=on_step)


@pytest.fixture
def large(monkeypatch) -> None:
    """Runs begin with a scale that is too large."""
    monkeypatch.setattr(loop, "LossScale", functools.partial(LossScale, LARGE))


@pytest.mark.parametrize("family", ["llama", "coder"])
def test_an_overflow_changes_nothing_but_the_scale(family: str) -> None:
    made: Network = network() if family == "llama" else Coder.build(Coder.SIZES["tiny"], 0)
    prepare(made, AdapterSettings(kind="none"), seed=0)
    made.train()
    optimizer = torch.optim.AdamW(trainable(made).values(), fused=True)
    first = step(made, optimizer, LossScale())
    assert first.updated
    assert first.scale == LossScale(num_good=1)
    before = state(made, optimizer)
    report = step(made, optimizer, TOO_LARGE)
    assert not report.updated
    assert report.scale == LossScale(2.0**39, num_skipped=1)
    assert 0 < report.loss < 100
    assert same(state(made, optimizer), before)
    assert all(p.grad is None for p in trainable(made).values())
    after = step(made, optimizer, LossScale())
    assert after.updated
    assert not same(state(made, optimizer), before)


def test_a_scale_changes_no_gradient_that_fits() -> None:
    """In float32, where nothing overflows or vanishes, powers of two are multiplied in and out without a rounding."""
    found = []
    for scale in (None, LossScale(), LossScale(2.0**20)):
        made = network()
        optimizer = torch.optim.AdamW(trainable(made).values(), fused=True)
        report = step(made, optimizer, scale, precision="float32", clip=0.1)
        found.append((report.grad_norm, state(made, optimizer)))
    assert found[0][0] == found[1][0] == found[2][0] > 0.1
    assert same(found[0][1], found[1][1])
    assert same(found[0][1], found[2][1])


def test_an_overflow_at_the_floor_and_a_loss_that_is_not_finite_are_divergence() -> None:
    made = network()
    optimizer = torch.optim.AdamW(trainable(made).values(), fused=True)
    before = state(made, optimizer)
    handle = made.model.layers[0].mlp.up_proj.weight.register_hook(lambda gradient: gradient * float("inf"))
    assert not step(made, optimizer, LossScale(2.0)).updated
    with pytest.raises(ModelError, match="diverged") as met:
        step(made, optimizer, LossScale(1.0))
    assert "bfloat16" in met.value.hint
    with pytest.raises(ModelError, match="diverged"):
        step(made, optimizer, None, precision="bfloat16")
    assert same(state(made, optimizer), before)
    handle.remove()
    with torch.no_grad():
        made.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match="the loss is nan"):
        step(made, optimizer, LossScale())


def test_the_course_of_the_scale_is_that_of_torch(monkeypatch) -> None:
    monkeypatch.setattr(loss_scale, "_GROWTH_INTERVAL", 3)
    theirs, ours = torch.amp.GradScaler("cpu", growth_interval=3), LossScale()
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for fits in (True, False, True, True, True, True, True, False, False, True, True, True, True):
        theirs.scale(weight.sum())
        weight.grad = torch.full((4,), 1.0 if fits else float("inf"))
        theirs.step(optimizer)
        theirs.update()
        ours = ours.after(fits)
        assert ours.value == theirs.get_scale()
    assert ours.num_skipped == 3


def test_a_forced_overflow_is_survived_and_told(tmp_path, large) -> None:
    heard = Heard()
    _, result = go(tmp_path, events=Events([heard]))
    assert result.loss_scale is not None
    skipped = result.loss_scale.num_skipped
    assert 1 <= skipped < 6
    assert result.loss_scale.value == LARGE / 2**skipped
    assert result.num_steps == 10
    assert result.final_loss < 0.95 * result.first_loss
    scales = [value for name, value, _ in heard.metrics if name == "sft/loss_scale"]
    assert len(scales) == 10
    assert scales[0] == LARGE / 2
    assert [value for name, value, _ in heard.metrics if name == "sft/num_skipped"][-1] == skipped
    norms = [step for name, _, step in heard.metrics if name == "sft/gradient_norm"]
    updated = [step + 1 for step, (a, b) in enumerate(itertools.pairwise([LARGE, *scales])) if a == b]
    assert norms == updated, "a skipped step has no norm"
    assert len(norms) == 10 - skipped


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_without_float16_there_is_no_scale(tmp_path, precision: str, large) -> None:
    heard = Heard()
    _, result = go(tmp_path, events=Events([heard]), precision=precision)
    assert result.loss_scale is None
    assert not [name for name, _, _ in heard.metrics if "scale" in name or "skipped" in name]


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 3e-3), ("float16", 5e-4)])
@pytest.mark.parametrize(("kind", "rate", "falls_to"), [("none", 1e-2, 0.9), ("lora", 2e-3, 0.999)])
def test_half_precision_matches_the_losses_of_float32(
    tmp_path, precision: str, tolerance: float, kind: str, rate: float, falls_to: float
) -> None:
    def losses(of: str) -> list[float]:
        result: TrainResult = go(tmp_path / of, precision=of, kind=kind, epochs=4, learning_rate=rate)[1]
        return [loss for _, loss in (*result.losses, *result.validation)]

    exact, narrow = losses("float32"), losses(precision)
    assert narrow != exact
    assert exact[19] < falls_to * exact[0]
    gap = max(abs(a - b) / b for a, b in zip(narrow, exact, strict=True))
    assert gap < tolerance


@pytest.mark.parametrize("stop_at", [1, 5])
def test_stopped_after_a_skipped_step_and_resumed_is_uninterrupted(tmp_path, large, stop_at: int) -> None:
    straight, whole = go(tmp_path / "a")
    seen = []

    def stop(num_tokens: int) -> None:
        seen.append(num_tokens)
        if len(seen) == stop_at:
            raise BudgetSpent("enough")

    with pytest.raises(BudgetSpent):
        go(tmp_path / "b", on_step=stop)
    resumed, rest = go(tmp_path / "b")
    assert rest.resumed_from == stop_at
    assert whole.loss_scale.num_skipped >= 1
    assert (rest.loss_scale, rest.losses, rest.validation) == (whole.loss_scale, whole.losses, whole.validation)
    assert same([*trainable(resumed).values()], [*trainable(straight).values()])


def test_killed_after_a_skipped_step_it_goes_on_to_the_same_bits(tmp_path, large) -> None:
    script = f"""
import functools, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_train_loss_scale import LARGE, LossScale, go, loop
loop.LossScale = functools.partial(LossScale, LARGE)
go(Path(sys.argv[1]), on_step=lambda n: (print("step", flush=True), time.sleep(0.1)), checkpoint_interval=1)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "k")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "step\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed, rest = go(tmp_path / "k", checkpoint_interval=1)
    straight, whole = go(tmp_path / "s", checkpoint_interval=1)
    assert 1 <= rest.resumed_from < 10
    assert rest.loss_scale == whole.loss_scale
    assert whole.loss_scale.num_skipped >= 1
    assert same([*trainable(resumed).values()], [*trainable(straight).values()])
