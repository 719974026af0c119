"""Llama-like decoders (Touvron et al. 2023, "Llama 2"; "The Llama 3 Herd of Models", 2024).

Loads Llama 2, Llama 3.x, SmolLM2 and other checkpoints whose config says `model_type: llama`: tied or untied head,
grouped key/value heads, optional biases, linear or llama3 rotary scaling. Not: tensor-parallel pre-training splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rung.base.settings import Field
from rung.models.decoder import Decoder, DecoderSettings, published_sizes, refused_sizes, sizes_of
from rung.models.layers.body import DecoderLayer, RotaryBody
from rung.models.layers.feed_forward import GatedFeedForward
from rung.models.layers.rotary import Rotary, RotarySettings

__all__ = ["Llama"]


class LlamaSettings(DecoderSettings):
    """Sizes and choices of a Llama network."""

    attention_bias: bool = Field(False, description="biases in the four attention projections")
    feed_forward_bias: bool = Field(False, description="biases in the three feed-forward projections")


class Llama(Decoder):
    """A Llama network."""

    Settings: ClassVar[type[LlamaSettings]] = LlamaSettings
    SIZES: ClassVar[dict[str, LlamaSettings]] = {
        "tiny": LlamaSettings(
            vocabulary=300, width=32, inner_width=64, num_layers=2, num_heads=4, num_kv_heads=2, head_width=8,
            max_context=512, tied_head=True,
        ),
        "1m": LlamaSettings(
            vocabulary=10000, width=64, inner_width=176, num_layers=8, num_heads=4, num_kv_heads=4, head_width=16,
            max_context=1024, tied_head=True,
        ),
        "3m": LlamaSettings(
            vocabulary=10000, width=128, inner_width=344, num_layers=8, num_heads=4, num_kv_heads=4, head_width=32,
            max_context=1024, tied_head=True,
        ),
        "8m": LlamaSettings(
            vocabulary=10000, width=256, inner_width=688, num_layers=8, num_heads=8, num_kv_heads=4, head_width=32,
            max_context=1024, tied_head=True,
        ),
        "28m": LlamaSettings(
            vocabulary=10000, width=512, inner_width=1376, num_layers=8, num_heads=8, num_kv_heads=4, head_width=64,
            max_context=1024, tied_head=True,
        ),
        "135m": LlamaSettings(
            vocabulary=49152, width=576, inner_width=1536, num_layers=30, num_heads=9, num_kv_heads=3, head_width=64,
            max_context=8192, tied_head=True, rotary=RotarySettings(theta=100000.0),
        ),
    }  # fmt: skip
    model_types: ClassVar[tuple[str, ...]] = ("llama",)
    ignored: ClassVar[tuple[str, ...]] = ("rotary_emb.inv_freq",)
    settings: LlamaSettings

    def __init__(self, settings: LlamaSettings) -> None:
        s, options = settings, settings.attention(bias=settings.attention_bias)
        layers = (
            DecoderLayer(
                index,
                options,
                GatedFeedForward(s.width, s.inner_width, "silu", bias=s.feed_forward_bias),
                s.norm_epsilon,
            )
            for index in range(s.num_layers)
        )
        super().__init__(s, RotaryBody(s, layers, Rotary(s.rotary, s.head_width)), tied=s.tied_head)

    @staticmethod
    def refuses(config: Mapping[str, Any]) -> str:
        """Why this family cannot run a published config, empty when it can."""
        return refused_sizes(config)

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> LlamaSettings:
        """Settings from a published `config.json`; call `refuses` first."""
        return LlamaSettings(
            **sizes_of(config, max_context=2048, norm_epsilon=1e-6),
            attention_bias=config.get("attention_bias", False),
            feed_forward_bias=config.get("mlp_bias", False),
        )

    def published_config(self) -> dict[str, Any]:
        """A `config.json` that transformers and `from_config` read."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            **published_sizes(self.settings),
            "attention_bias": self.settings.attention_bias,
            "mlp_bias": self.settings.feed_forward_bias,
            "hidden_act": "silu",
        }
