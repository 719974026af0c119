"""coder, rung's own architecture for code: Llama's attention, and a mixture of experts for every feed-forward layer.

With softmax scores and no bias it is Mixtral (Jiang et al. 2024, arXiv 2401.04088). Loads checkpoints whose config
says `model_type: mixtral`, and its own; what it publishes, transformers reads as Mixtral, or as Llama where there are
no experts. Scores by sigmoid and a balancing bias (DeepSeek-V3, arXiv 2412.19437) have no counterpart there: such a
network is published as `rung_coder`, which rung alone reads. Not: windows, experts that every token shares.

Legend: B batch, T token, D width, V vocabulary, F inner width, E expert.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import pydantic
import torch
from torch import Tensor, nn

from rung.base.settings import Field
from rung.models.decoder import Decoder, DecoderSettings, published_sizes, refused_sizes, sizes_of
from rung.models.layers.attend import real_tokens
from rung.models.layers.attention import Attention
from rung.models.layers.balance import BalanceOptions, ExpertBalance
from rung.models.layers.body import StackedBody
from rung.models.layers.experts import Noted, SparseFeedForward
from rung.models.layers.feed_forward import GatedFeedForward
from rung.models.layers.normalisation import RMSNorm
from rung.models.layers.rotary import Rotary, RotarySettings
from rung.models.layers.router import RouterOptions, Scoring
from rung.models.network import Attend, Translation

__all__ = ["Coder"]

_PUBLISHED = re.compile(r"(.*)\.block_sparse_moe\.experts\.(\d+)\.(w[123])\.weight")


class CoderSettings(DecoderSettings):
    """Sizes and choices of a coder network."""

    vocabulary: int = Field(ge=1, description="rows of the embedding, those of control tokens included")
    inner_width: int = Field(
        ge=1, description="width inside one expert (inside the feed-forward layer without experts)"
    )
    max_context: int = Field(8192, ge=1, description="longest context it was trained for, in tokens")
    rotary: RotarySettings = Field(RotarySettings(theta=1e6), description="positions")
    num_experts: int = Field(8, ge=0, description="experts of a layer; 0: one dense feed-forward layer instead")
    num_active: int = Field(2, ge=1, description="experts that a token uses")
    scoring: Scoring = Field("softmax", description="how the router's logits become scores")
    capacity_factor: float = Field(
        0.0, ge=0, description="in training an expert takes so many times its even share, the rest is dropped; 0: all"
    )
    balance_weight: float = Field(0.01, ge=0, description="of the auxiliary loss that evens out the load; 0: none")
    bias_rate: float = Field(0.0, ge=0, lt=1, description="step of the bias that evens out the load; 0: no bias")
    z_weight: float = Field(0.0, ge=0, description="of the loss on large router logits; 0: none")

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> CoderSettings:
        if self.num_experts and self.num_active > self.num_experts:
            raise ValueError(f"{self.num_active} active experts of {self.num_experts}")
        return self


def _read(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors to ours: the experts' matrices stacked, gate above up."""
    found: dict[str, Tensor] = {}
    apart: dict[str, dict[str, dict[int, Tensor]]] = {}
    for name, tensor in tensors.items():
        match = _PUBLISHED.fullmatch(name)
        if match is None:
            found[name.replace(".block_sparse_moe.", ".mlp.")] = tensor
        else:
            apart.setdefault(match[1], {}).setdefault(match[3], {})[int(match[2])] = tensor
    for layer, kinds in apart.items():
        stacked = {kind: torch.stack([x for _, x in sorted(experts.items())]) for kind, experts in kinds.items()}
        found[f"{layer}.mlp.experts.gate_up_proj"] = torch.cat([stacked["w1"], stacked["w3"]], dim=1)
        found[f"{layer}.mlp.experts.down_proj"] = stacked["w2"]
    return found


def _write(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Ours to published ones: a matrix for every expert."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, is_experts, kind = name.partition(".mlp.experts.")
        if not is_experts:
            found[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = tensor
            continue
        for index, matrix in enumerate(tensor):
            parts = {"w2": matrix} if kind == "down_proj" else dict(zip(("w1", "w3"), matrix.chunk(2), strict=True))
            found |= {f"{layer}.block_sparse_moe.experts.{index}.{w}.weight": part for w, part in parts.items()}
    return found


class _Layer(nn.Module):
    def __init__(self, index: int, s: CoderSettings) -> None:
        super().__init__()
        self.self_attn = Attention(index, s.attention())
        self.mlp = _sparse(s) if s.num_experts else GatedFeedForward(s.width, s.inner_width, "silu")
        self.input_layernorm = RMSNorm(s.width, s.norm_epsilon)
        self.post_attention_layernorm = RMSNorm(s.width, s.norm_epsilon)

    def forward(
        self, x_BTD: Tensor, angles: tuple[Tensor, Tensor], attend: Attend, real_BT: Tensor | None
    ) -> tuple[Tensor, Noted | None]:
        """[B, T, D] to [B, T, D], and what balancing needs of the experts."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), angles, attend)
        normal_BTD = self.post_attention_layernorm(x_BTD)
        if isinstance(self.mlp, SparseFeedForward):
            thought_BTD, noted = self.mlp(normal_BTD, real_BT)
            return x_BTD + thought_BTD, noted
        return x_BTD + self.mlp(normal_BTD), None


def _sparse(s: CoderSettings) -> SparseFeedForward:
    options = RouterOptions(s.width, s.num_experts, s.num_active, s.scoring, biased=s.bias_rate > 0)
    return SparseFeedForward(options, s.inner_width, s.capacity_factor)


class _Body(StackedBody):
    def __init__(self, s: CoderSettings) -> None:
        super().__init__(s, (_Layer(index, s) for index in range(s.num_layers)))
        self._rotary = Rotary(s.rotary, s.head_width)
        routers = [layer.mlp.gate for layer in self.layers if isinstance(layer.mlp, SparseFeedForward)]
        options = BalanceOptions(s.balance_weight, s.bias_rate, s.z_weight)
        self.balance = ExpertBalance(options, routers) if routers else None

    def forward(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Final hidden states [B, T, D]; in training the balance gets what the layers noted."""
        x_BTD = self.embed_tokens(token_ids_BT)
        angles = self._rotary.angles(positions_BT, x_BTD.dtype)
        real_BT = real_tokens(attend, token_ids_BT)
        noted: list[Noted] = []
        for layer in self.layers:
            x_BTD, note = layer(x_BTD, angles, attend, real_BT)
            noted += [] if note is None else [note]
        if noted:
            assert self.balance is not None
            self.balance.note(noted)
        out: Tensor = self.norm(x_BTD)
        return out


class Coder(Decoder):
    """A coder network."""

    Settings: ClassVar[type[CoderSettings]] = CoderSettings
    SIZES: ClassVar[dict[str, CoderSettings]] = {
        "tiny": CoderSettings(
            vocabulary=320, width=64, inner_width=64, num_layers=2, num_heads=4, num_kv_heads=2, head_width=16,
            max_context=512, num_experts=4, tied_head=True,
        ),
        "8m": CoderSettings(
            vocabulary=4096, width=192, inner_width=240, num_layers=6, num_heads=6, num_kv_heads=2, head_width=32,
            max_context=1024, num_experts=8, tied_head=True,
        ),
        "reference": CoderSettings(
            vocabulary=64000, width=1536, inner_width=2048, num_layers=14, num_heads=24, num_kv_heads=6, head_width=64,
        ),
        "old": CoderSettings(
            vocabulary=32000, width=1024, inner_width=2816, num_layers=24, num_heads=16, num_kv_heads=16, head_width=64,
            max_context=4096, num_experts=0, balance_weight=0.0,
        ),
    }  # fmt: skip
    model_types: ClassVar[tuple[str, ...]] = ("mixtral", "rung_coder")
    ignored: ClassVar[tuple[str, ...]] = ("rotary_emb.inv_freq",)
    translation: ClassVar[Translation] = Translation(_read, _write)
    settings: CoderSettings

    def __init__(self, settings: CoderSettings) -> None:
        body = _Body(settings)
        super().__init__(settings, body, tied=settings.tied_head)
        self.balance = body.balance

    @staticmethod
    def refuses(config: Mapping[str, Any]) -> str:
        """Why this family cannot run a published config, empty when it can."""
        return "sliding windows are not built" if config.get("sliding_window") else refused_sizes(config)

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> CoderSettings:
        """Settings from a published `config.json`; call `refuses` first."""
        num_active = config.get("num_experts_per_tok", 2)
        return CoderSettings(
            **sizes_of(config, max_context=32768, norm_epsilon=1e-5),
            num_experts=config.get("num_local_experts", 8),
            num_active=num_active,
            scoring=config.get("scoring", "softmax"),
            capacity_factor=config.get("capacity_factor", 0.0),
            # transformers' loss counts every one of a token's experts as a whole
            balance_weight=config.get("router_aux_loss_coef", 0.001) * num_active,
            bias_rate=config.get("bias_rate", 0.0),
            z_weight=config.get("z_weight", 0.0),
        )

    def published_config(self) -> dict[str, Any]:
        """A `config.json` that `from_config` reads, and transformers where it knows the architecture."""
        s = self.settings
        plain = {**published_sizes(s), "hidden_act": "silu"}
        if not s.num_experts:
            return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **plain}
        known = s.scoring == "softmax" and not s.bias_rate
        names = ("mixtral", "MixtralForCausalLM") if known else ("rung_coder", "Coder")
        return {"model_type": names[0], "architectures": [names[1]], **plain, **self._published_experts()}

    def _published_experts(self) -> dict[str, Any]:
        s = self.settings
        return {
            "num_local_experts": s.num_experts,
            "num_experts_per_tok": s.num_active,
            "router_aux_loss_coef": s.balance_weight / s.num_active,
            "sliding_window": None,
            "scoring": s.scoring,
            "capacity_factor": s.capacity_factor,
            "bias_rate": s.bias_rate,
            "z_weight": s.z_weight,
        }
