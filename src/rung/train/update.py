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
from rung.train.loss_scale import LossScale

__all__ = ["Precision", "in_precision", "update_weights", "without_dropout"]

Precision = Literal["float32", "bfloat16", "float16"]
_NARROW: dict[Precision, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def update_weights(
    optimizer: torch.optim.Optimizer, loss: float, *, learning_rate: float, clip: float, scale: LossScale | None = None
) -> float:
    """Clip the gradients' global norm to `clip` (0: never), update, forget them; returns the norm before clipping.

    Gradients of a loss that was multiplied by a scale are divided by it first. If their norm is not finite the scale
    was too large: weights and optimizer are left as they were, and that norm is returned. It is of all ranks together,
    so they agree.

    Raises:
        ModelError: the loss is not finite, or the gradient, and no smaller scale would help; the weights are left as
            they were.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    factor = 1.0 if scale is None else 1.0 / scale.value
    norm = float(whole(nn.utils.get_total_norm(gradients))) * factor
    fits = math.isfinite(norm)
    if not math.isfinite(loss) or not (fits or (scale is not None and scale.may_shrink)):
        optimizer.zero_grad(set_to_none=True)
        raise ModelError(
            f"the loss is {loss} and the gradient's norm {norm}: training diverged",
            hint="lower the learning rate or look at the records of this step"
            + ("" if scale is None else "; float16 ends at 65504, bfloat16 does not"),
        )
    if fits:
        factor *= clip / norm if 0 < clip < norm else 1.0
        if factor != 1.0:
            torch._foreach_mul_(gradients, factor)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        # torch's fused kernels write without counting it, and who keeps copies of weights goes by the count
        increment_version(p for group in optimizer.param_groups for p in group["params"])
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
    return torch.autocast(device.type, dtype=_NARROW[precision])
