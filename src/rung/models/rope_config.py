"""Rotary positions as published configs write them, in the new layout (`rope_parameters`) and in the old one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.models.layers.rotary import RotarySettings

__all__ = ["published_rope", "refused_rope", "rotary_of"]


def rotary_of(config: Mapping[str, Any]) -> RotarySettings:
    """What a config says; call `refused_rope` first."""
    rope = _rope(config)
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return RotarySettings(theta=rope["rope_theta"])
    if kind == "linear":
        return RotarySettings(theta=rope["rope_theta"], scaling="linear", factor=rope["factor"])
    return RotarySettings(
        theta=rope["rope_theta"],
        scaling="llama3",
        factor=rope["factor"],
        low_frequency_factor=rope["low_freq_factor"],
        high_frequency_factor=rope["high_freq_factor"],
        original_context=rope["original_max_position_embeddings"],
    )


def refused_rope(config: Mapping[str, Any]) -> str:
    """Why its positions cannot be computed here, empty when they can."""
    kind = _rope(config).get("rope_type", "default")
    return "" if kind in ("default", "linear", "llama3") else f"rotary scaling '{kind}' is not built"


def published_rope(rotary: RotarySettings) -> dict[str, Any]:
    """The value of `rope_parameters`."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": rotary.theta}
    if rotary.scaling != "none":
        rope |= {"rope_type": rotary.scaling, "factor": rotary.factor}
    if rotary.scaling == "llama3":
        rope |= {
            "low_freq_factor": rotary.low_frequency_factor,
            "high_freq_factor": rotary.high_frequency_factor,
            "original_max_position_embeddings": rotary.original_context,
        }
    return rope


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters`, or the old `rope_theta` beside `rope_scaling`."""
    found = {"rope_theta": config.get("rope_theta", 10000.0)}
    found |= config.get("rope_parameters") or config.get("rope_scaling") or {}
    if "type" in found:
        found.setdefault("rope_type", found["type"])
    return found
