"""Sampling in bfloat16 from weights that are trained in float32: the copy is the weights rounded, and never stale."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.engine.engine_models import MODELS, Made, llama

from rung.base.errors import ModelError
from rung.base.events import Events
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.families.coder import Coder
from rung.models.twin import Twin
from rung.pipeline.stages._rl_bench import Bench
from rung.pipeline.stages.grpo import Grpo
from rung.records.contracts import Request, Sampling
from rung.train.adapters import prepare
from rung.train.optim.adamw import AdamW
from rung.train.settings import AdapterSettings
from rung.train.update import update_weights

NARROW = EngineSettings(precision="bfloat16")
ASKED = [Request(str(i), Sampling(temperature=0.9, max_new_tokens=12), seed=i, text=f"abc {i} def") for i in range(5)]


def rounded(made: Made) -> Made:
    return replace(made, network=copy.deepcopy(made.network).to(torch.bfloat16))


def told(engine: Engine) -> list[Any]:
    return [(done.token_ids, done.logprobs) for done in engine.complete(ASKED)]


def trained(made: Made) -> None:
    """One update by the optimizer that training uses."""
    named = dict(made.network.named_parameters())
    optimizer = AdamW(AdamW.Settings()).build(named)
    for number, parameter in enumerate(named.values()):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    update_weights(optimizer, 1.0, learning_rate=0.05, clip=0.0)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_samples_as_the_rounded_weights_do_before_and_after_an_update(name: str) -> None:
    made = MODELS[name]()
    made.network.requires_grad_(True)
    engine = Engine(made, NARROW)
    before = told(engine)
    assert before == told(Engine(rounded(made)))
    assert before != told(Engine(made))
    trained(made)
    assert made.network.output_weight.dtype == torch.float32
    after = told(engine)
    assert after != before
    assert after == told(Engine(rounded(made)))
    assert engine.score(["ab"], ["cd"]) == Engine(rounded(made)).score(["ab"], ["cd"])


def test_only_what_was_written_is_rounded_again() -> None:
    network = llama().network
    twin = Twin(network, torch.bfloat16)
    assert twin.refresh() == 0
    with torch.no_grad():
        network.output_weight.add_(1.0)
    assert twin.refresh() == 1
    assert torch.equal(twin.network.output_weight, network.output_weight.to(torch.bfloat16))


def test_what_a_balance_without_gradient_moves_is_copied_too() -> None:
    sizes = {"balance_weight": 0.0, "bias_rate": 1e-3, "scoring": "sigmoid"}
    network = Coder.build(Coder.SIZES["tiny"].model_copy(update=sizes))
    twin = Twin(network, torch.bfloat16)
    biases = {name: tensor for name, tensor in network.named_buffers() if name.endswith("bias_parts")}
    assert biases
    for tensor in biases.values():
        tensor += 3
    assert twin.refresh() == len(biases)
    copied = dict(twin.network.named_buffers())
    assert all(torch.equal(copied[name], tensor) for name, tensor in biases.items())


def test_weights_that_are_narrow_already_are_not_copied() -> None:
    made = rounded(llama())
    engine = Engine(made, NARROW)
    assert engine.memory().weights == sum(p.nbytes for p in made.network.parameters())
    wide = llama()
    assert Engine(wide, NARROW).memory().weights == 1.5 * sum(p.nbytes for p in wide.network.parameters())


def test_an_adapter_put_on_afterwards_is_not_overlooked() -> None:
    made = llama()
    engine = Engine(made, NARROW)
    engine.complete(ASKED)
    prepare(made.network, AdapterSettings(rank=2), seed=1)
    with pytest.raises(ModelError, match="changed after it was copied"):
        engine.complete(ASKED)


@pytest.mark.parametrize(
    ("training", "said", "sampled"),
    [
        ({"precision": "bfloat16"}, {}, "bfloat16"),
        ({"precision": "bfloat16"}, {"precision": "weights"}, "weights"),
        ({}, {}, "weights"),
    ],
)
def test_a_policy_is_sampled_in_the_precision_that_it_is_trained_in(
    training: dict[str, Any], said: dict[str, Any], sampled: str
) -> None:
    settings = Grpo.Settings.model_validate({"tasks": ["arithmetic"], "training": training, "engine": said})
    context: Any = SimpleNamespace(events=Events(), budget=None)
    bench = Bench(context, SimpleNamespace(), settings, llama(), SimpleNamespace())  # type: ignore[arg-type]
    assert bench.engine.settings.precision == sampled
