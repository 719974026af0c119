"""A linear layer's product, by the faster of two kernels where nothing is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rung.models.native.kernels import product_kernels

__all__ = ["product", "project"]


def project(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`; see `product` for the kernel of a plain linear layer without gradients."""
    if type(layer) is not nn.Linear or torch.is_grad_enabled():
        out: Tensor = layer(x)
        return out
    out = product(x, layer.weight)
    return out if layer.bias is None else out + layer.bias


def product(x: Tensor, weight_OD: Tensor) -> Tensor:
    """x W' [..., O], without gradients: by the kernel for few rows of bfloat16 where it is the faster one here.

    Then by it for many rows too, or a row's bits would depend on how many there are.
    """
    if weight_OD.dtype == x.dtype == torch.bfloat16 and x.device.type == "cpu" and not x.shape[-1] % 2:
        ours = product_kernels()
        if ours is not None and weight_OD.is_contiguous() and not torch.is_autocast_enabled("cpu"):
            return ours.product(x.reshape(-1, x.shape[-1]), weight_OD).view(*x.shape[:-1], -1)
    return functional.linear(x, weight_OD)
