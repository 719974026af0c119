"""GPT-Neo (Black et al. 2021, "GPT-Neo: Large Scale Autoregressive Language Modeling with Mesh-Tensorflow").

Loads checkpoints whose config says `model_type: gpt_neo`: EleutherAI's 125M to 2.7B, and TinyStories (Eldan and Li
2023, "TinyStories: How Small Can Language Models Be"), whose shapes the small sizes follow. Layers that see everything
alternate with ones that see a window; scores are not scaled. Not: dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from rung.base.settings import Field
from rung.models.decoder import Decoder, refused_learned
from rung.models.layers.learned_positions import LearnedBody, LearnedSettings
from rung.models.network import Translation

__all__ = ["GPTNeo"]

_RENAMED = (
    (".attn.attention.out_proj.", ".attn.o_proj."),
    (".attn.attention.", ".attn."),
    (".mlp.c_fc.", ".mlp.up_proj."),
    (".mlp.c_proj.", ".mlp.down_proj."),
)


class GPTNeoSettings(LearnedSettings):
    """Sizes and choices of a GPT-Neo network."""

    full_attention: tuple[bool, ...] = Field(min_length=1, description="per layer: sees everything, not just a window")
    window: int = Field(256, ge=1, description="tokens that a windowed layer sees, itself included")
    max_context: int = Field(2048, ge=1, description="learned positions: longer texts cannot be read")

    @property
    def num_layers(self) -> int:
        """As many as `full_attention` speaks of."""
        return len(self.full_attention)


def _read(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {_named(name, _RENAMED): tensor for name, tensor in tensors.items()}


def _write(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    back = tuple((ours, theirs) for theirs, ours in _RENAMED)
    return {_named(name, back): tensor for name, tensor in tensors.items()}


def _named(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """The first pair that applies is the only one."""
    for old, new in pairs:
        if old in name:
            return name.replace(old, new)
    return name


def _small(width: int, num_layers: int, num_heads: int = 16) -> GPTNeoSettings:
    """A TinyStories shape over a vocabulary cut to 10,000."""
    return GPTNeoSettings(
        vocabulary=10000,
        width=width,
        inner_width=4 * width,
        num_heads=num_heads,
        full_attention=tuple(index % 2 == 0 for index in range(num_layers)),
        max_context=512,
    )


class GPTNeo(Decoder):
    """A GPT-Neo network."""

    Settings: ClassVar[type[GPTNeoSettings]] = GPTNeoSettings
    SIZES: ClassVar[dict[str, GPTNeoSettings]] = {
        "tiny": GPTNeoSettings(
            vocabulary=300, width=32, inner_width=64, num_heads=4, full_attention=(True, False), window=8,
            max_context=512,
        ),
        "1m": _small(64, 8),
        "3m": _small(128, 8),
        "8m": _small(256, 7),
        "28m": _small(512, 7),
        "125m": GPTNeoSettings(
            vocabulary=50257, width=768, inner_width=3072, num_heads=12, full_attention=(True, False) * 6,
        ),
    }  # fmt: skip
    model_types: ClassVar[tuple[str, ...]] = ("gpt_neo",)
    # causal masks that old releases kept among the weights
    ignored: ClassVar[tuple[str, ...]] = (".attn.attention.bias", ".attn.attention.masked_bias")
    translation: ClassVar[Translation] = Translation(_read, _write)
    body_name: ClassVar[str] = "transformer"
    settings: GPTNeoSettings

    def __init__(self, settings: GPTNeoSettings) -> None:
        windows = [0 if full else settings.window for full in settings.full_attention]
        super().__init__(settings, LearnedBody(settings, windows, scale=1.0, bias=False), tied=True)

    @staticmethod
    def refuses(config: Mapping[str, Any]) -> str:
        """Why this family cannot run a published config, empty when it can."""
        return refused_learned(config)

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> GPTNeoSettings:
        """Settings from a published `config.json`; call `refuses` first."""
        pattern = config.get("attention_types") or [[["global", "local"], config["num_layers"] // 2]]
        kinds = config.get("attention_layers") or [kind for group, times in pattern for kind in group * times]
        return GPTNeoSettings(
            vocabulary=config["vocab_size"],
            width=config["hidden_size"],
            inner_width=config.get("intermediate_size") or 4 * config["hidden_size"],
            num_heads=config["num_heads"],
            full_attention=tuple(kind == "global" for kind in kinds),
            window=config.get("window_size", 256),
            max_context=config.get("max_position_embeddings", 2048),
            norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        )

    def published_config(self) -> dict[str, Any]:
        """A `config.json` that transformers and `from_config` read."""
        s = self.settings
        kinds = ["global" if full else "local" for full in s.full_attention]
        return {
            "model_type": "gpt_neo",
            "architectures": ["GPTNeoForCausalLM"],
            "vocab_size": s.vocabulary,
            "hidden_size": s.width,
            "intermediate_size": s.inner_width,
            "num_layers": len(kinds),
            "num_heads": s.num_heads,
            "attention_types": [[kinds, 1]],
            "attention_layers": kinds,
            "window_size": s.window,
            "max_position_embeddings": s.max_context,
            "layer_norm_epsilon": s.norm_epsilon,
            "activation_function": "gelu_new",
            "resid_dropout": 0.0,
            "embed_dropout": 0.0,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
        }
