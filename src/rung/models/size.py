"""What a network costs: its parameters, how many of them a token uses, its cache, the products of one token.

Networks on the meta device are measured as well as real ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from rung.models.layers.experts import SparseFeedForward
from rung.models.network import Network

__all__ = ["Size", "num_in_products", "size_of"]


@dataclass(frozen=True, slots=True)
class Size:
    """`num_active` parameters serve any one token: of experts, those that it uses. `cache_numbers` are kept for every
    position of a sequence. `flops` of one token forward are two for every weight that it is multiplied with, the output
    projection included; attention's own, which grow with the context, are not."""

    num_parameters: int
    num_active: int
    cache_numbers: int
    flops: int


def size_of(network: Network) -> Size:
    """Counted from the network itself; a tied output projection is one with the embedding and counts once."""
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    sparse = [module for module in network.modules() if isinstance(module, SparseFeedForward)]
    num_idle = sum(_num_idle(layer) for layer in sparse)
    shape = network.shape
    return Size(
        num_parameters=num_parameters,
        num_active=num_parameters - num_idle,
        cache_numbers=2 * shape.num_layers * shape.num_kv_heads * shape.head_width,
        flops=2 * (num_in_products(network) + shape.vocabulary * shape.width),
    )


def num_in_products(module: nn.Module) -> int:
    """The weights in it that any one token is multiplied with; the output projection counts apart."""
    sparse = [part for part in module.modules() if isinstance(part, SparseFeedForward)]
    found = sum(part.weight.numel() for name, part in module.named_modules() if _is_product(name, part))
    found += sum(layer.gate.weight.numel() + _num_expert_weights(layer) - _num_idle(layer) for layer in sparse)
    return int(found)


def _is_product(name: str, module: nn.Module) -> bool:
    """The output projection is counted apart, for it may be the embedding."""
    return isinstance(module, nn.Linear) and name != "lm_head"


def _num_expert_weights(layer: SparseFeedForward) -> int:
    return sum(parameter.numel() for parameter in layer.experts.parameters())


def _num_idle(layer: SparseFeedForward) -> int:
    options = layer.gate.options
    return _num_expert_weights(layer) * (options.num_experts - options.num_active) // options.num_experts
