"""Qwen 3, the dense models (Yang et al. 2025, "Qwen3 Technical Report").

Loads checkpoints whose config says `model_type: qwen3`, 0.6B to 32B: Llama's layers with a norm on every head's queries
and keys. Not: sliding windows, which no published checkpoint switches on, and the mixture-of-experts models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rung.base.settings import Field
from rung.models.decoder import Decoder, DecoderSettings, published_sizes, refused_sizes, sizes_of
from rung.models.layers.body import DecoderLayer, RotaryBody
from rung.models.layers.feed_forward import GatedFeedForward
from rung.models.layers.rotary import Rotary, RotarySettings

__all__ = ["Qwen3"]


class Qwen3Settings(DecoderSettings):
    """Sizes and choices of a Qwen 3 network."""

    head_width: int = Field(128, ge=2, description="width of one head, independent of the network's width")
    max_context: int = Field(32768, ge=1, description="longest context it was trained for, in tokens")
    norm_epsilon: float = Field(1e-6, gt=0, description="added to the mean square in norms")
    rotary: RotarySettings = Field(RotarySettings(theta=1e6), description="positions")
    attention_bias: bool = Field(False, description="biases in the four attention projections")


class Qwen3(Decoder):
    """A Qwen 3 network."""

    Settings: ClassVar[type[Qwen3Settings]] = Qwen3Settings
    SIZES: ClassVar[dict[str, Qwen3Settings]] = {
        "tiny": Qwen3Settings(
            vocabulary=300, width=32, inner_width=64, num_layers=2, num_heads=4, num_kv_heads=2, head_width=16,
            max_context=512, tied_head=True,
        ),
        "600m": Qwen3Settings(
            vocabulary=151936, width=1024, inner_width=3072, num_layers=28, num_heads=16, num_kv_heads=8,
            max_context=40960, tied_head=True,
        ),
    }  # fmt: skip
    model_types: ClassVar[tuple[str, ...]] = ("qwen3",)
    ignored: ClassVar[tuple[str, ...]] = ("rotary_emb.inv_freq",)
    settings: Qwen3Settings

    def __init__(self, settings: Qwen3Settings) -> None:
        s = settings
        options = s.attention(bias=s.attention_bias, norm_epsilon=s.norm_epsilon, centred=False)
        layers = (
            DecoderLayer(index, options, GatedFeedForward(s.width, s.inner_width, "silu"), s.norm_epsilon)
            for index in range(s.num_layers)
        )
        super().__init__(s, RotaryBody(s, layers, Rotary(s.rotary, s.head_width)), tied=s.tied_head)

    @staticmethod
    def refuses(config: Mapping[str, Any]) -> str:
        """Why this family cannot run a published config, empty when it can."""
        return "sliding windows are not built" if config.get("use_sliding_window", False) else refused_sizes(config)

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Qwen3Settings:
        """Settings from a published `config.json`; call `refuses` first."""
        return Qwen3Settings(
            **sizes_of(config, max_context=32768, norm_epsilon=1e-6, head_width=128),
            attention_bias=config.get("attention_bias", False),
        )

    def published_config(self) -> dict[str, Any]:
        """A `config.json` that transformers and `from_config` read."""
        return {
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            **published_sizes(self.settings),
            "attention_bias": self.settings.attention_bias,
            "use_sliding_window": False,
            "hidden_act": "silu",
        }
