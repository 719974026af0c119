"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174), laid on from outside: what a layer computed is
forgotten, and computed again when its gradient is asked for. Memory of one layer at a time instead of all, for one more
forward pass. Gradients are the same to the bit: dropout draws again what it drew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["outer_layers", "recomputing"]


def outer_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules: a decoder's layers."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from outer_layers(child)


@contextmanager
def recomputing(network: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within it the network's layers are computed again in backward; without gradients nothing is different."""
    layers = list(outer_layers(network)) if wanted else []
    for layer in layers:
        layer.forward = _again(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _again(forward: Any) -> Any:
    def run(*inputs: Any, **keywords: Any) -> Any:
        """As the layer's own."""
        if not torch.is_grad_enabled():
            return forward(*inputs, **keywords)
        return checkpoint(forward, *inputs, use_reentrant=False, **keywords)

    return run
