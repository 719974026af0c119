"""The decoder layer that Llama made usual: a root-mean-square norm before attention and before the feed-forward layer.

Legend: B batch, T token, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from rung.models.layers.attention import Attention, AttentionOptions
from rung.models.layers.feed_forward import GatedFeedForward
from rung.models.layers.normalisation import RMSNorm
from rung.models.network import Attend

__all__ = ["DecoderLayer"]


class DecoderLayer(nn.Module):
    """Attention and a SiLU-gated feed-forward layer, each added to the residual stream."""

    def __init__(self, index: int, options: AttentionOptions, inner_width: int, norm_epsilon: float) -> None:
        super().__init__()
        self.self_attn = Attention(index, options)
        self.mlp = GatedFeedForward(options.width, inner_width, "silu")
        self.input_layernorm = RMSNorm(options.width, norm_epsilon)
        self.post_attention_layernorm = RMSNorm(options.width, norm_epsilon)

    def forward(self, x_BTD: Tensor, angles: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), angles, attend)
        out: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out
