"""Rotary position embedding (Su et al. 2021, "RoFormer"), with the two frequency scalings that Llama models use.

Legend: B batch, T token, d head width, H heads. Positions are always given, never counted here, so that a packed
document restarts at 0 and a cached one goes on where it stopped.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from rung.base.settings import Field, Settings
from rung.models.native.gradients import rotated
from rung.models.native.kernels import layer_kernels, trained_kernels

__all__ = ["Rotary", "RotarySettings", "rotate"]


class RotarySettings(Settings):
    """How positions become angles.

    `linear` divides all frequencies by `factor`. `llama3` (Llama 3.1, "The Llama 3 Herd of Models") divides the ones
    whose wavelength is longer than original_context / low, keeps those shorter than original_context / high, and
    interpolates between.
    """

    theta: float = Field(10000.0, gt=0, description="base of the wavelengths")
    scaling: Literal["none", "linear", "llama3"] = Field("none", description="how frequencies are stretched")
    factor: float = Field(1.0, ge=1, description="how many times longer the context became")
    low_frequency_factor: float = Field(1.0, gt=0, description="llama3: long-wavelength limit")
    high_frequency_factor: float = Field(4.0, gt=0, description="llama3: short-wavelength limit")
    original_context: int = Field(8192, ge=1, description="llama3: context before stretching, in tokens")


class Rotary:
    """Angles for one set of frequencies. Holds no parameter and no buffer, so building on the meta device is safe."""

    def __init__(self, settings: RotarySettings, head_width: int) -> None:
        self._frequencies = _frequencies(settings, head_width)

    def angles(self, positions_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine (minus for the first half), each [B, T, 1, d]; from float32, rounded to `dtype`."""
        frequencies = self._frequencies.to(positions_BT.device)
        half = (positions_BT[..., None].float() * frequencies)[:, :, None, :]
        cosine, sine = half.cos().to(dtype), half.sin().to(dtype)
        return torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)


def rotate(x_BTHd: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair (i, i + d/2) of a head by its angle. Shapes: [B, T, H, d] and `Rotary.angles`, [B, T, 1, d]."""
    if ours := layer_kernels(x_BTHd, cosine, sine):
        return ours.rotate(x_BTHd, cosine, sine)
    if ours := trained_kernels(x_BTHd):
        return rotated(ours, x_BTHd, cosine, sine)
    return torch.addcmul(x_BTHd * cosine, x_BTHd.roll(x_BTHd.shape[-1] // 2, -1), sine)


def _frequencies(settings: RotarySettings, head_width: int) -> Tensor:
    exponents = torch.arange(0, head_width, 2, dtype=torch.float32, device="cpu") / head_width
    plain = 1.0 / settings.theta**exponents
    if settings.scaling == "none":
        return plain
    stretched = plain / settings.factor
    if settings.scaling == "linear":
        return stretched
    turns = settings.original_context * plain / (2 * math.pi)  # full turns within the original context
    low, high = settings.low_frequency_factor, settings.high_frequency_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return stretched * (1 - kept) + plain * kept
