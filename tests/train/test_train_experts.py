"""Training a mixture of experts: the balance acts, does not depend on micro-batches, and survives an interruption."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_loop import Heard, go, pairs, same, weights

from rung.base.errors import BudgetSpent
from rung.base.events import Events
from rung.models.families.coder import Coder
from rung.models.layers.balance import ExpertBalance
from rung.records.packing import pack
from rung.train.adapters import prepare, trainable
from rung.train.objectives.cross_entropy import CrossEntropy
from rung.train.optim.adamw import AdamW
from rung.train.settings import AdapterSettings
from rung.train.step import StepReport, accumulate, evaluate, train_step

TINY = Coder.SIZES["tiny"]
OBJECTIVE = CrossEntropy(CrossEntropy.Settings())


def coder(**choices: Any) -> Coder:
    network = Coder.build(TINY.model_copy(update={"balance_weight": 0.0, **choices}))
    prepare(network, AdapterSettings(kind="none"), seed=0)
    return network.train()


def skewed(**choices: Any) -> Coder:
    """The router prefers its first experts for most tokens, and learns alone."""
    network = coder(num_layers=1, **choices)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        network.model.embed_tokens.weight += 0.02 * torch.randn(TINY.width, generator=draw)
        lean_D = network.model.embed_tokens.weight.mean(0)
        for layer in network.model.layers:
            layer.mlp.gate.weight.copy_(0.05 * torch.randn(layer.mlp.gate.weight.shape, generator=draw))
            layer.mlp.gate.weight[0] += 0.3 * lean_D / lean_D.norm()
            layer.mlp.gate.weight[1] += 0.15 * lean_D / lean_D.norm()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(".gate." in name)
    return network


def steps(network: Coder, count: int, rows: Any, learning_rate: float = 3e-3) -> list[StepReport]:
    optimizer = AdamW(AdamW.Settings()).build(trainable(network))
    return [
        train_step(network, optimizer, rows, OBJECTIVE, learning_rate=learning_rate, clip=1.0) for _ in range(count)
    ]


def violation(report: StepReport) -> float:
    return report.figures["experts/max_violation"]


ROWS = pack(pairs(96), 512)


def test_without_balance_a_skewed_router_stays_skewed_and_either_method_evens_it_out() -> None:
    left = steps(skewed(), 50, ROWS, 1e-3)
    assert violation(left[0]) > 0.9
    assert violation(left[-1]) > 0.9
    by_loss = steps(skewed(balance_weight=0.3), 120, ROWS, 1e-3)
    by_bias = steps(skewed(bias_rate=0.004), 140, ROWS, 1e-4)
    by_sigmoid = steps(skewed(bias_rate=0.003, scoring="sigmoid"), 140, ROWS, 1e-4)
    for reports in (by_loss, by_bias, by_sigmoid):
        assert violation(reports[0]) > 0.9
        assert sum(violation(report) for report in reports[-20:]) / 20 < 0.1
        assert reports[-1].figures["experts/balance_loss"] < reports[0].figures["experts/balance_loss"]
        assert sum(reports[-1].figures[f"experts/load_{i}"] for i in range(4)) == pytest.approx(1.0)


def gradients(network: Coder, rows: Any) -> dict[str, torch.Tensor]:
    network.zero_grad()
    accumulate(network, rows, OBJECTIVE)
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_micro_batches_have_the_gradient_and_the_figures_of_one_batch() -> None:
    network, examples = skewed(balance_weight=0.5, z_weight=0.01), pairs(32)
    assert isinstance(network.balance, ExpertBalance)
    network.balance.load.copy_(torch.tensor([[70, 20, 5, 5]]))
    whole = gradients(network, pack(examples, 10_000))
    kept = [network.balance.load.clone()]
    network.balance.settle(lambda sums: sums)
    figures = network.balance.load.clone()
    network.balance.load.copy_(kept[0])
    split = gradients(network, pack(examples, 20))
    network.balance.settle(lambda sums: sums)
    assert torch.equal(network.balance.load, figures)
    assert len(pack(examples, 20)) > 8
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, atol=1e-5, rtol=1e-4)
    without = gradients(skewed(), pack(examples, 10_000))
    assert not torch.allclose(
        without["model.layers.0.mlp.gate.weight"], whole["model.layers.0.mlp.gate.weight"], atol=1e-3
    )


def test_the_loss_that_is_told_is_the_objective_alone() -> None:
    examples = pack(pairs(8), 10_000)
    heavy = steps(coder(balance_weight=5.0, z_weight=1.0), 1, examples)[0]
    assert heavy.loss == pytest.approx(evaluate(coder(), examples, OBJECTIVE), abs=1e-5)


def test_capacity_drops_in_training_and_the_share_is_told() -> None:
    report = steps(skewed(capacity_factor=1.0), 1, ROWS)[0]
    assert 0.1 < report.figures["experts/dropped"] < 0.6
    assert steps(skewed(), 1, ROWS)[0].figures["experts/dropped"] == 0.0


def test_load_over_time_is_among_the_curves(tmp_path: Path) -> None:
    heard = Heard()
    go(coder(), pairs(12), tmp_path, events=Events([heard]), epochs=1)
    for name in ("balance_loss", "max_violation", "dropped", "load_0", "load_3"):
        assert [step for step, _ in heard.curve(f"sft/experts/{name}")] == [1, 2, 3]


@pytest.mark.parametrize("choices", [{"balance_weight": 0.5}, {"bias_rate": 0.01, "scoring": "sigmoid"}])
def test_interrupted_is_uninterrupted_to_the_bit_load_and_bias_included(
    choices: dict[str, Any], tmp_path: Path
) -> None:
    examples, settings = pairs(13), {"epochs": 3, "eval_fraction": 0.2, "checkpoint_interval": 2}
    straight, stopped, resumed = (coder(**choices) for _ in range(3))
    go(straight, examples, tmp_path / "a", **settings)
    count = itertools.count(1)

    def stop(num_tokens: int) -> None:
        if next(count) == 5:
            raise BudgetSpent("enough")

    with pytest.raises(BudgetSpent):
        go(stopped, examples, tmp_path / "b", on_step=stop, **settings)
    assert go(resumed, examples, tmp_path / "b", **settings).resumed_from == 5
    assert same(weights(straight), weights(resumed))
    assert straight.balance is not None
    assert resumed.balance is not None
    assert same(straight.balance.state, resumed.balance.state)
    assert any(bool(tensor.any()) for name, tensor in straight.balance.state.items() if "bias" in name) == (
        "bias_rate" in choices
    )


def test_an_adapter_leaves_the_bias_of_frozen_routers_alone() -> None:
    network = Coder.build(TINY.model_copy(update={"bias_rate": 0.01}))
    prepare(network, AdapterSettings(kind="lora", rank=4, targets=("q_proj", "v_proj")), seed=0)
    optimizer = AdamW(AdamW.Settings()).build(trainable(network))
    report = train_step(network.train(), optimizer, ROWS, OBJECTIVE, learning_rate=1e-2, clip=1.0)
    assert "experts/max_violation" in report.figures
    assert all(not bool(layer.mlp.gate.bias_parts.any()) for layer in network.model.layers)
