"""Layers computed again in backward: the same gradients, less kept (item 284)."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest
import torch
from torch import Tensor

from rung.models.load import load
from rung.models.network import Network
from rung.models.recompute import outer_layers, recomputing
from rung.records.chat.frame import Rendered
from rung.records.packing import Example, pack
from rung.train.adapters import prepare
from rung.train.objectives.cross_entropy import CrossEntropy
from rung.train.settings import AdapterSettings, SftSettings
from rung.train.step import accumulate

ADAPTERS = {
    "every weight": AdapterSettings(kind="none"),
    "an adapter with dropout": AdapterSettings(dropout=0.3, rank=4),
}


def network_of(source: str, adapter: AdapterSettings) -> Network:
    network: Network = load(source, precision="float32", clean=False, strict=False).network
    prepare(network, adapter, 1)
    network.train()
    return network


def step(network: Network, *, again: bool) -> tuple[float, list[Tensor], int]:
    """Loss, gradients, and the bytes that are kept for backward."""
    chance = torch.Generator().manual_seed(3)
    examples = []
    for number, length in enumerate((160, 90, 40)):
        ids = tuple(torch.randint(5, 200, (length,), generator=chance).tolist())
        examples.append(Example(str(number), Rendered(ids, (False, *(True,) * (length - 1)), 1)))
    kept = 0

    def keep(x: Tensor) -> Tensor:
        """Count it."""
        nonlocal kept
        kept += x.numel() * x.element_size()
        return x

    parameters = [p for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    torch.manual_seed(7)
    with recomputing(network, again), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = accumulate(network, pack(examples, 300), CrossEntropy(CrossEntropy.Settings()))
    return loss, [p.grad.clone() for p in parameters if p.grad is not None], kept


@pytest.mark.parametrize("source", ["tiny:llama", "tiny:gemma3", "tiny:gpt2", "tiny:coder"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_gradients_are_the_same_and_less_is_kept(source: str, adapter: str) -> None:
    network = network_of(source, ADAPTERS[adapter])
    loss, gradients, kept = step(network, again=False)
    again, repeated, less = step(network, again=True)
    assert again == loss
    assert len(gradients) == len(repeated) > 3
    assert all(torch.equal(a, b) for a, b in zip(gradients, repeated, strict=True))
    assert less < 0.5 * kept


def test_afterwards_the_network_is_as_it_was_and_without_gradients_nothing_is_different() -> None:
    network = network_of("tiny:llama", ADAPTERS["every weight"])
    before = [layer.forward for layer in outer_layers(network)]
    calls: list[int] = []

    def counted(forward: Any) -> Any:
        def run(*inputs: Any, **keywords: Any) -> Any:
            calls.append(1)
            return forward(*inputs, **keywords)

        return run

    for layer in outer_layers(network):
        layer.mlp.forward = counted(layer.mlp.forward)  # type: ignore[union-attr, assignment]
    step(network, again=False)
    plain = len(calls)
    step(network, again=True)
    assert len(calls) == 3 * plain
    assert [layer.forward for layer in outer_layers(network)] == before


def test_a_ring_computes_again_as_it_is() -> None:
    with pytest.raises(pydantic.ValidationError, match="a ring computes its attention again"):
        SftSettings.model_validate({"recompute": True, "devices": {"context": 2}})
