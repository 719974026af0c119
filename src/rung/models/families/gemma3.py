"""Gemma 3, the text model (Gemma Team 2025, "Gemma 3 Technical Report").

Loads `gemma3_text` checkpoints (270M, 1B) and the text half of the multimodal ones (4B, 12B, 27B). Five layers with a
sliding window and short rotary wavelengths alternate with one that sees everything; queries and keys are normalised;
every sub-layer has a norm before and after. Not: images, bidirectional attention.

Legend: B batch, T token, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rung.base.settings import Field, Settings
from rung.models.decoder import Decoder
from rung.models.layers.attention import Attention, AttentionOptions
from rung.models.layers.body import StackedBody
from rung.models.layers.feed_forward import GatedFeedForward
from rung.models.layers.normalisation import RMSNorm
from rung.models.layers.rotary import Rotary, RotarySettings
from rung.models.network import Attend

__all__ = ["Gemma3"]


class Gemma3Settings(Settings):
    """Sizes and choices of a Gemma 3 text network."""

    vocabulary: int = Field(ge=1, description="rows of the embedding")
    width: int = Field(ge=2, description="width of the residual stream")
    inner_width: int = Field(ge=1, description="width inside the feed-forward layer")
    num_heads: int = Field(ge=1, description="query heads")
    num_kv_heads: int = Field(ge=1, description="key/value heads; divides num_heads")
    head_width: int = Field(256, ge=2, description="width of one head, independent of the network's width")
    full_attention: tuple[bool, ...] = Field(min_length=1, description="per layer: sees everything, not just a window")
    window: int = Field(512, ge=1, description="tokens that a windowed layer sees, itself included")
    query_scale_base: int = Field(256, ge=1, description="scores are divided by its square root")
    max_context: int = Field(32768, ge=1, description="longest context it was trained for, in tokens")
    norm_epsilon: float = Field(1e-6, gt=0, description="added to the mean square in norms")
    global_rotary: RotarySettings = Field(RotarySettings(theta=1e6), description="positions of full-attention layers")
    local_rotary: RotarySettings = Field(RotarySettings(theta=1e4), description="positions of windowed layers")
    attention_bias: bool = Field(False, description="biases in the four attention projections")
    softcap: float = Field(0.0, ge=0, description="logits are squashed to this bound; 0 is off")

    @property
    def num_layers(self) -> int:
        """As many as `full_attention` speaks of."""
        return len(self.full_attention)


class _Layer(nn.Module):
    def __init__(self, index: int, s: Gemma3Settings) -> None:
        super().__init__()
        self.full = s.full_attention[index]
        self.self_attn = Attention(
            index,
            AttentionOptions(
                width=s.width,
                num_heads=s.num_heads,
                num_kv_heads=s.num_kv_heads,
                head_width=s.head_width,
                scale=s.query_scale_base**-0.5,
                window=0 if self.full else s.window,
                bias=s.attention_bias,
                norm_epsilon=s.norm_epsilon,
            ),
        )
        self.mlp = GatedFeedForward(s.width, s.inner_width, "gelu_tanh")
        self.input_layernorm = RMSNorm(s.width, s.norm_epsilon, centred=True)
        self.post_attention_layernorm = RMSNorm(s.width, s.norm_epsilon, centred=True)
        self.pre_feedforward_layernorm = RMSNorm(s.width, s.norm_epsilon, centred=True)
        self.post_feedforward_layernorm = RMSNorm(s.width, s.norm_epsilon, centred=True)

    def forward(self, x_BTD: Tensor, angles: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        seen = self.self_attn(self.input_layernorm(x_BTD), angles, attend)
        x_BTD = x_BTD + self.post_attention_layernorm(seen)
        thought = self.mlp(self.pre_feedforward_layernorm(x_BTD))
        out: Tensor = x_BTD + self.post_feedforward_layernorm(thought)
        return out


class _Body(StackedBody):
    def __init__(self, s: Gemma3Settings) -> None:
        super().__init__(s, (_Layer(index, s) for index in range(s.num_layers)), centred=True)
        self._scale = s.width**0.5
        self._global = Rotary(s.global_rotary, s.head_width)
        self._local = Rotary(s.local_rotary, s.head_width)

    def forward(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Final hidden states [B, T, D]."""
        x_BTD = self.embed_tokens(token_ids_BT)
        # the factor is rounded to the weights' type first, as the published model was trained
        x_BTD = x_BTD * torch.tensor(self._scale, dtype=x_BTD.dtype, device=x_BTD.device)
        local = self._local.angles(positions_BT, x_BTD.dtype)
        everywhere = self._global.angles(positions_BT, x_BTD.dtype)
        for layer in self.layers:
            x_BTD = layer(x_BTD, everywhere if layer.full else local, attend)
        out: Tensor = self.norm(x_BTD)
        return out


class Gemma3(Decoder):
    """A Gemma 3 text network."""

    Settings: ClassVar[type[Gemma3Settings]] = Gemma3Settings
    SIZES: ClassVar[dict[str, Gemma3Settings]] = {
        "tiny": Gemma3Settings(
            vocabulary=300, width=32, inner_width=64, num_heads=4, num_kv_heads=2, head_width=16,
            full_attention=(False, False, True), window=8, query_scale_base=16, max_context=512,
        ),
        "270m": Gemma3Settings(
            vocabulary=262144, width=640, inner_width=2048, num_heads=4, num_kv_heads=1,
            full_attention=((False,) * 5 + (True,)) * 3,
        ),
    }  # fmt: skip
    model_types: ClassVar[tuple[str, ...]] = ("gemma3_text", "gemma3")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        ("language_model.model.", "model."),
        ("model.language_model.", "model."),
    )
    ignored: ClassVar[tuple[str, ...]] = ("vision_tower.", "multi_modal_projector.", "rotary_emb.")
    settings: Gemma3Settings

    def __init__(self, settings: Gemma3Settings) -> None:
        super().__init__(settings, _Body(settings), tied=True)
        self.softcap = settings.softcap

    @staticmethod
    def refuses(config: Mapping[str, Any]) -> str:
        """Why this family cannot run a published config, empty when it can."""
        config = config.get("text_config", config)
        if config.get("attn_logit_softcapping"):
            return "capped attention scores are not built"
        if config.get("use_bidirectional_attention"):
            return "bidirectional attention is not built"
        if not config.get("tie_word_embeddings", True):
            return "an untied head is not built"
        activation = config.get("hidden_activation", "gelu_pytorch_tanh")
        if activation != "gelu_pytorch_tanh":
            return f"activation '{activation}' is not built"
        kinds = [rope.get("rope_type", "default") for rope in _ropes(config)]
        return next(
            (f"rotary scaling '{kind}' is not built" for kind in kinds if kind not in ("default", "linear")), ""
        )

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Gemma3Settings:
        """Settings from a published `config.json` (the text half of a multimodal one); call `refuses` first."""
        config = config.get("text_config", config)
        num_layers = config["num_hidden_layers"]
        period = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
        kinds = config.get("layer_types") or [
            "sliding_attention" if (index + 1) % period else "full_attention" for index in range(num_layers)
        ]
        local, everywhere = (_rotary(rope) for rope in _ropes(config))
        return Gemma3Settings(
            vocabulary=config["vocab_size"],
            width=config["hidden_size"],
            inner_width=config["intermediate_size"],
            num_heads=config["num_attention_heads"],
            num_kv_heads=config["num_key_value_heads"],
            head_width=config.get("head_dim", 256),
            full_attention=tuple(kind == "full_attention" for kind in kinds),
            window=config.get("sliding_window") or 4096,
            query_scale_base=config.get("query_pre_attn_scalar", 256),
            max_context=config.get("max_position_embeddings", 131072),
            norm_epsilon=config.get("rms_norm_eps", 1e-6),
            global_rotary=everywhere,
            local_rotary=local,
            attention_bias=config.get("attention_bias", False),
            softcap=config.get("final_logit_softcapping") or 0.0,
        )

    def published_config(self) -> dict[str, Any]:
        """A `config.json` that transformers and `from_config` read."""
        s = self.settings
        return {
            "model_type": "gemma3_text",
            "architectures": ["Gemma3ForCausalLM"],
            "vocab_size": s.vocabulary,
            "hidden_size": s.width,
            "intermediate_size": s.inner_width,
            "num_hidden_layers": s.num_layers,
            "num_attention_heads": s.num_heads,
            "num_key_value_heads": s.num_kv_heads,
            "head_dim": s.head_width,
            "layer_types": ["full_attention" if full else "sliding_attention" for full in s.full_attention],
            "sliding_window": s.window,
            "query_pre_attn_scalar": s.query_scale_base,
            "max_position_embeddings": s.max_context,
            "rms_norm_eps": s.norm_epsilon,
            "rope_parameters": {
                "full_attention": _published(s.global_rotary),
                "sliding_attention": _published(s.local_rotary),
            },
            "attention_bias": s.attention_bias,
            "final_logit_softcapping": s.softcap or None,
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
        }


def _ropes(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rotary parameters of windowed and of full layers, from the new layout (`rope_parameters`) or the old one."""
    found = config.get("rope_parameters") or {}
    local = {"rope_theta": config.get("rope_local_base_freq", 1e4), **(found.get("sliding_attention") or {})}
    scaling = found.get("full_attention") or config.get("rope_scaling") or {}
    return local, {"rope_theta": config.get("rope_theta", 1e6), **scaling}


def _rotary(rope: Mapping[str, Any]) -> RotarySettings:
    if rope.get("rope_type", "default") == "linear":
        return RotarySettings(theta=rope["rope_theta"], scaling="linear", factor=rope["factor"])
    return RotarySettings(theta=rope["rope_theta"])


def _published(rotary: RotarySettings) -> dict[str, Any]:
    plain = {"rope_type": "default", "rope_theta": rotary.theta}
    return plain if rotary.scaling == "none" else plain | {"rope_type": rotary.scaling, "factor": rotary.factor}
