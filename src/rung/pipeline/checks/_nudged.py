"""A network whose vectors are trained, or moved, for the length of a check; afterwards it is as it was, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["trained_vectors", "vectors_moved"]


@contextmanager
def trained_vectors(network: nn.Module, last: int = 0) -> Iterator[list[nn.Parameter]]:
    """Inside, the network's vectors (norms and biases; all of it where there are none) alone are trained; with `last`
    the last so many of them, which every token moves and which cost no backward pass through the body."""
    every = list(network.parameters())
    chosen = [parameter for parameter in every if parameter.ndim == 1][-last:] or every
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in every]
    values = [parameter.detach().clone() for parameter in chosen]
    for parameter in every:
        parameter.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    try:
        yield chosen
    finally:
        with torch.no_grad():
            for parameter, value in zip(chosen, values, strict=True):
                parameter.copy_(value)
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


@torch.no_grad()
def vectors_moved(chosen: list[nn.Parameter], amount: float) -> None:
    """Move them by fixed random amounts, the same on every machine."""
    draws = torch.Generator().manual_seed(0)
    for parameter in chosen:
        parameter.add_(amount * torch.randn(parameter.shape, generator=draws).to(parameter))
