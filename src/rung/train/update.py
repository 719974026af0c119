"""What every kind of step shares: the update itself, and the state that a network is in while it is read."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn
from torch.autograd.graph import increment_version

from rung.base.errors import ModelError
from rung.models.network import Network
from rung.models.parallel.laid_out import whole

__all__ = ["Precision", "in_precision", "update_weights", "without_dropout"]

Precision = Literal["float32", "bfloat16"]


def update_weights(optimizer: torch.optim.Optimizer, loss: float, *, learning_rate: float, clip: float) -> float:
    """Clip the gradients' global norm to `clip` (0: never), update, forget them; returns the norm before clipping.

    Raises:
        ModelError: the loss or the gradient is not finite; the weights are left as they were.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        optimizer.zero_grad(set_to_none=True)
        raise ModelError(
            f"the loss is {loss} and the gradient's norm {norm}: training diverged",
            hint="lower the learning rate or look at the records of this step",
        )
    if 0 < clip < norm:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], clip / norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    # torch's fused kernels write without counting it, and who keeps copies of weights goes by the count
    increment_version(parameters)
    optimizer.zero_grad(set_to_none=True)
    return norm


@contextlib.contextmanager
def without_dropout(network: Network) -> Iterator[None]:
    """The network in evaluation mode, and afterwards as it was."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def in_precision(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Matrix products in the precision; weights stay what they are."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
