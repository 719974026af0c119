"""Random weights that depend on a seed and a parameter's name alone, so two machines build the same network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from rung.base.seeds import derive
from rung.models.layers.experts import Experts
from rung.models.layers.normalisation import RMSNorm
from rung.models.layers.router import Router
from rung.models.network import Network
from rung.models.recompute import outer_layers

__all__ = ["built", "stand_in"]

N = TypeVar("N", bound=Network)


def built(make: Callable[[], N], seed: int, deviation: Callable[[str], float] = lambda name: 0.02) -> N:
    """Make a network and fill it: matrices normal(0, deviation), biases zero, norms neutral; float32 on the CPU.

    `deviation` gets the name of the module that a matrix is in.
    """
    with torch.device("meta"):
        network = make()
    network.to_empty(device="cpu")
    for name, module in network.named_modules():
        _fill(name, module, seed, deviation(name))
    return network


def stand_in(make: Callable[[], Network]) -> Network:
    """A network to measure on: layers whose weights have equal names and shapes share them, so that all together take
    the memory of one. It computes as a network of these sizes does, and what it says means nothing."""
    with torch.device("meta"):
        network = make()
    first: dict[tuple[tuple[str, torch.Size], ...], nn.Module] = {}
    shared = set[str]()
    names = {id(module): name for name, module in network.named_modules()}
    for layer in outer_layers(network):
        kind = tuple((name, tensor.shape) for name, tensor in layer.state_dict().items())
        if kind in first:
            layer.load_state_dict(first[kind].state_dict(), assign=True)
            shared.add(f"{names[id(layer)]}.")
        else:
            first[kind] = layer.to_empty(device="cpu")
    for name, module in network.named_modules():
        if any(tensor.is_meta for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            module.to_empty(device="cpu", recurse=False)
        if not name.startswith(tuple(shared)):
            _fill(name, module, 0, 0.02)
    return network


@torch.no_grad()
def _fill(name: str, module: nn.Module, seed: int, deviation: float) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        generator = torch.Generator().manual_seed(derive(seed, "initialise", name))
        module.weight.normal_(0.0, deviation, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, (Experts, Router)):
        for own, parameter in module.named_parameters():
            generator = torch.Generator().manual_seed(derive(seed, "initialise", f"{name}.{own}"))
            parameter.normal_(0.0, deviation, generator=generator)
        for buffer in module.buffers():
            buffer.zero_()
    elif isinstance(module, nn.LayerNorm):
        module.weight.fill_(1.0)
        module.bias.zero_()
    elif isinstance(module, RMSNorm):
        module.weight.fill_(0.0 if module.centred else 1.0)
