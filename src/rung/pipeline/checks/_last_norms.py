"""Gradients that cost no backward pass through the body: of the network's last vectors, which every token moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["last_norms_trained"]

_NUM_TRAINED = 3


@contextmanager
def last_norms_trained(network: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Inside, the network's last vectors (all of it where there are none) are trained; afterwards it is as before."""
    every = list(network.parameters())
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in every]
    chosen = [parameter for parameter in every if parameter.ndim == 1][-_NUM_TRAINED:] or every
    for parameter in every:
        parameter.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    try:
        yield chosen
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient
