"""A linear layer's product, by the faster of two kernels where nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rung.models.native.kernels import Kernels, product_kernels

__all__ = ["product", "product_into", "project", "project_all"]

_FEW = 64


def project(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`; see `product` for the kernel of a plain linear layer without gradients."""
    return project_all((layer,), x)[0]


def project_all(layers: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """What each of several layers makes of the same input."""
    plain = [layer for layer in layers if type(layer) is nn.Linear]
    weights = [layer.weight for layer in plain]
    ours = None if torch.is_grad_enabled() or len(plain) < len(layers) else _kernels(x, *weights)
    if ours is None:
        return [layer(x) for layer in layers]
    outs = ours.products(x, weights)
    return [out if layer.bias is None else out + layer.bias for out, layer in zip(outs, plain, strict=True)]


def product(x: Tensor, weight_OD: Tensor) -> Tensor:
    """x W' [..., O], without gradients: by the kernel for few rows of bfloat16 where it is the faster one here.

    Then by it for many rows too, or a row's bits would depend on how many there are.
    """
    if ours := _kernels(x, weight_OD):
        return ours.product(x, weight_OD)
    return functional.linear(x, weight_OD)


def product_into(x_ND: Tensor, weight_OD: Tensor, out_NO: Tensor) -> None:
    """`product` into float32 rows that may lie apart."""
    if ours := _kernels(x_ND, weight_OD):
        # few rows at a time, for they are read again with every few weights; no bit depends on it
        for start in range(0, len(x_ND), _FEW):
            ours.product_wide(x_ND[start : start + _FEW], weight_OD, out_NO[start : start + _FEW])
    else:
        out_NO.copy_(functional.linear(x_ND, weight_OD))


def _kernels(x: Tensor, *weights: Tensor) -> Kernels | None:
    if x.dtype != torch.bfloat16 or not x.is_cpu or x.shape[-1] % 2 or torch.is_autocast_enabled("cpu"):
        return None
    for weight in weights:
        if weight.dtype != torch.bfloat16 or not weight.is_contiguous():
            return None
    return product_kernels()
