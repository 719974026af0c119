"""Qwen 3, the dense models (Yang et al. 2025, "Qwen3 Technical Report").

Loads checkpoints whose config says `model_type: qwen3`, 0.6B to 32B: Llama's layers with a norm on every head's queries
and keys. Not: sliding windows, which no published checkpoint switches on, and the mixture-of-experts models.

Legend: B batch, T token, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from rung.base.settings import Field, Settings
from rung.models.initialise import built
from rung.models.layers.attention import AttentionOptions
from rung.models.layers.decoder import DecoderLayer
from rung.models.layers.normalisation import RMSNorm
from rung.models.layers.rotary import Rotary, RotarySettings
from rung.models.network import Attend, Network, Shape
from rung.models.rope_config import published_rope, refused_rope, rotary_of

__all__ = ["Qwen3"]


class Qwen3Settings(Settings):
    """Sizes and choices of a Qwen 3 network."""

    vocabulary: int = Field(ge=1, description="rows of the embedding")
    width: int = Field(ge=2, description="width of the residual stream")
    inner_width: int = Field(ge=1, description="width inside the feed-forward layer")
    num_layers: int = Field(ge=1, description="decoder layers")
    num_heads: int = Field(ge=1, description="query heads")
    num_kv_heads: int = Field(ge=1, description="key/value heads; divides num_heads")
    head_width: int = Field(128, ge=2, description="width of one head, independent of the network's width")
    max_context: int = Field(32768, ge=1, description="longest context it was trained for, in tokens")
    norm_epsilon: float = Field(1e-6, gt=0, description="added to the mean square in norms")
    rotary: RotarySettings = Field(RotarySettings(theta=1e6), description="positions")
    tied_head: bool = Field(False, description="the output projection is the embedding")
    attention_bias: bool = Field(False, description="biases in the four attention projections")


class _Body(nn.Module):
    def __init__(self, s: Qwen3Settings) -> None:
        super().__init__()
        options = AttentionOptions(
            width=s.width,
            num_heads=s.num_heads,
            num_kv_heads=s.num_kv_heads,
            head_width=s.head_width,
            scale=s.head_width**-0.5,
            bias=s.attention_bias,
            norm_epsilon=s.norm_epsilon,
            centred=False,
        )
        self.embed_tokens = nn.Embedding(s.vocabulary, s.width)
        self.layers = nn.ModuleList(
            DecoderLayer(index, options, s.inner_width, s.norm_epsilon) for index in range(s.num_layers)
        )
        self.norm = RMSNorm(s.width, s.norm_epsilon)


class Qwen3(Network):
    """A Qwen 3 network. `build` makes one with random weights, `from_config` reads a published config."""

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
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    ignored: ClassVar[tuple[str, ...]] = ("rotary_emb.inv_freq",)

    def __init__(self, settings: Qwen3Settings) -> None:
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
    def build(cls, settings: Qwen3Settings, seed: int = 0) -> Qwen3:
        """A network with random weights, the same for the same seed."""
        network = built(lambda: cls(settings), seed)
        assert isinstance(network, Qwen3)
        return network

    @staticmethod
    def refuses(config: Mapping[str, Any]) -> str:
        """Why this family cannot run a published config, empty when it can."""
        if config.get("use_sliding_window", False):
            return "sliding windows are not built"
        if config.get("hidden_act", "silu") not in ("silu", "swish"):
            return f"activation '{config['hidden_act']}' is not built"
        return refused_rope(config)

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Qwen3Settings:
        """Settings from a published `config.json`; call `refuses` first."""
        num_heads = config["num_attention_heads"]
        return Qwen3Settings(
            vocabulary=config["vocab_size"],
            width=config["hidden_size"],
            inner_width=config["intermediate_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=config.get("num_key_value_heads") or num_heads,
            head_width=config.get("head_dim") or 128,
            max_context=config.get("max_position_embeddings", 32768),
            norm_epsilon=config.get("rms_norm_eps", 1e-6),
            rotary=rotary_of(config),
            tied_head=config.get("tie_word_embeddings", False),
            attention_bias=config.get("attention_bias", False),
        )

    def published_config(self) -> dict[str, Any]:
        """A `config.json` that transformers and `from_config` read."""
        s = self.settings
        return {
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
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
            "use_sliding_window": False,
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
