"""Llama-like decoders (Touvron et al. 2023, "Llama 2"; "The Llama 3 Herd of Models", 2024).

Loads Llama 2, Llama 3.x, SmolLM2 and other checkpoints whose config says `model_type: llama`: tied or untied head,
grouped key/value heads, optional biases, linear or llama3 rotary scaling. Not: tensor-parallel pre-training splits.

Legend: B batch, T token, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from rung.base.settings import Field, Settings
from rung.models.initialise import built
from rung.models.layers.attention import Attention, AttentionOptions
from rung.models.layers.feed_forward import GatedFeedForward
from rung.models.layers.normalisation import RMSNorm
from rung.models.layers.rotary import Rotary, RotarySettings
from rung.models.network import Attend, Network, Shape
from rung.models.rope_config import published_rope, refused_rope, rotary_of

__all__ = ["Llama"]


class LlamaSettings(Settings):
    """Sizes and choices of a Llama network."""

    vocabulary: int = Field(ge=1, description="rows of the embedding")
    width: int = Field(ge=2, description="width of the residual stream")
    inner_width: int = Field(ge=1, description="width inside the feed-forward layer")
    num_layers: int = Field(ge=1, description="decoder layers")
    num_heads: int = Field(ge=1, description="query heads")
    num_kv_heads: int = Field(ge=1, description="key/value heads; divides num_heads")
    head_width: int = Field(ge=2, description="width of one head")
    max_context: int = Field(2048, ge=1, description="longest context it was trained for, in tokens")
    norm_epsilon: float = Field(1e-5, gt=0, description="added to the mean square in norms")
    rotary: RotarySettings = Field(RotarySettings(), description="positions")
    tied_head: bool = Field(False, description="the output projection is the embedding")
    attention_bias: bool = Field(False, description="biases in the four attention projections")
    feed_forward_bias: bool = Field(False, description="biases in the three feed-forward projections")


class _Layer(nn.Module):
    def __init__(self, index: int, s: LlamaSettings) -> None:
        super().__init__()
        self.self_attn = Attention(
            index,
            AttentionOptions(
                width=s.width,
                num_heads=s.num_heads,
                num_kv_heads=s.num_kv_heads,
                head_width=s.head_width,
                scale=s.head_width**-0.5,
                bias=s.attention_bias,
            ),
        )
        self.mlp = GatedFeedForward(s.width, s.inner_width, "silu", bias=s.feed_forward_bias)
        self.input_layernorm = RMSNorm(s.width, s.norm_epsilon)
        self.post_attention_layernorm = RMSNorm(s.width, s.norm_epsilon)

    def forward(self, x_BTD: Tensor, angles: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), angles, attend)
        out: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out


class _Body(nn.Module):
    def __init__(self, s: LlamaSettings) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocabulary, s.width)
        self.layers = nn.ModuleList(_Layer(index, s) for index in range(s.num_layers))
        self.norm = RMSNorm(s.width, s.norm_epsilon)


class Llama(Network):
    """A Llama network. `build` makes one with random weights, `from_config` reads a published config."""

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
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    ignored: ClassVar[tuple[str, ...]] = ("rotary_emb.inv_freq",)

    def __init__(self, settings: LlamaSettings) -> None:
        super().__init__()
        self.settings = settings
        self.model = _Body(settings)
        self.lm_head = None if settings.tied_head else nn.Linear(settings.width, settings.vocabulary, bias=False)
        self.shape = Shape(
            vocabulary=settings.vocabulary,
            width=settings.width,
            num_layers=settings.num_layers,
            num_heads=settings.num_heads,
            num_kv_heads=settings.num_kv_heads,
            head_width=settings.head_width,
            max_context=settings.max_context,
        )
        self._rotary = Rotary(settings.rotary, settings.head_width)

    @classmethod
    def build(cls, settings: LlamaSettings, seed: int = 0) -> Llama:
        """A network with random weights, the same for the same seed."""
        network = built(lambda: cls(settings), seed)
        assert isinstance(network, Llama)
        return network

    @staticmethod
    def refuses(config: Mapping[str, Any]) -> str:
        """Why this family cannot run a published config, empty when it can."""
        if config.get("hidden_act", "silu") not in ("silu", "swish"):
            return f"activation '{config['hidden_act']}' is not built"
        return refused_rope(config)

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> LlamaSettings:
        """Settings from a published `config.json`; call `refuses` first."""
        num_heads = config["num_attention_heads"]
        return LlamaSettings(
            vocabulary=config["vocab_size"],
            width=config["hidden_size"],
            inner_width=config["intermediate_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=config.get("num_key_value_heads") or num_heads,
            head_width=config.get("head_dim") or config["hidden_size"] // num_heads,
            max_context=config.get("max_position_embeddings", 2048),
            norm_epsilon=config.get("rms_norm_eps", 1e-6),
            rotary=rotary_of(config),
            tied_head=config.get("tie_word_embeddings", False),
            attention_bias=config.get("attention_bias", False),
            feed_forward_bias=config.get("mlp_bias", False),
        )

    def published_config(self) -> dict[str, Any]:
        """A `config.json` that transformers and `from_config` read."""
        s = self.settings
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": s.vocabulary,
            "hidden_size": s.width,
            "intermediate_size": s.inner_width,
            "num_hidden_layers": s.num_layers,
            "num_attention_heads": s.num_heads,
            "num_key_value_heads": s.num_kv_heads,
            "head_dim": s.head_width,
            "max_position_embeddings": s.max_context,
            "rms_norm_eps": s.norm_epsilon,
            "rope_parameters": published_rope(s.rotary),
            "tie_word_embeddings": s.tied_head,
            "attention_bias": s.attention_bias,
            "mlp_bias": s.feed_forward_bias,
            "hidden_act": "silu",
        }

    def hidden(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Final hidden states [B, T, D], normalised; see `rung.models.network.Network.hidden`."""
        x_BTD = self.model.embed_tokens(token_ids_BT)
        angles = self._rotary.angles(positions_BT, x_BTD.dtype)
        for layer in self.model.layers:
            x_BTD = layer(x_BTD, angles, attend)
        out: Tensor = self.model.norm(x_BTD)
        return out

    @property
    def output_weight(self) -> Tensor:
        """The output projection's weight [V, D]."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
