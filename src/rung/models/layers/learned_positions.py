"""The body of GPT: learned positions, layer norms before each sub-layer, plain feed-forward layers.

Legend: B batch, T token, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from rung.models.layers.attention import Attention, AttentionOptions
from rung.models.layers.feed_forward import PlainFeedForward
from rung.models.network import Attend

__all__ = ["LearnedBody", "LearnedOptions"]


@dataclass(frozen=True, slots=True)
class LearnedOptions:
    """Sizes and choices. `windows`: of every layer, the tokens that it sees, 0 for all; `scale` of the scores;
    `bias`: queries, keys and values have one (the output projection always does)."""

    vocabulary: int
    max_context: int
    width: int
    inner_width: int
    num_heads: int
    windows: tuple[int, ...]
    scale: float
    bias: bool
    norm_epsilon: float


class _Layer(nn.Module):
    def __init__(self, index: int, o: LearnedOptions) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(o.width, o.norm_epsilon)
        self.attn = Attention(
            index,
            AttentionOptions(
                width=o.width,
                num_heads=o.num_heads,
                num_kv_heads=o.num_heads,
                head_width=o.width // o.num_heads,
                scale=o.scale,
                window=o.windows[index],
                bias=o.bias,
                output_bias=True,
            ),
        )
        self.ln_2 = nn.LayerNorm(o.width, o.norm_epsilon)
        self.mlp = PlainFeedForward(o.width, o.inner_width)

    def forward(self, x_BTD: Tensor, attend: Attend) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        x_BTD = x_BTD + self.attn(self.ln_1(x_BTD), None, attend)
        out: Tensor = x_BTD + self.mlp(self.ln_2(x_BTD))
        return out


class LearnedBody(nn.Module):
    """Token ids and positions to final, normalised hidden states."""

    def __init__(self, options: LearnedOptions) -> None:
        super().__init__()
        self.wte = nn.Embedding(options.vocabulary, options.width)
        self.wpe = nn.Embedding(options.max_context, options.width)
        self.h = nn.ModuleList(_Layer(index, options) for index in range(len(options.windows)))
        self.ln_f = nn.LayerNorm(options.width, options.norm_epsilon)

    def forward(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Hidden states [B, T, D]."""
        x_BTD = self.wte(token_ids_BT) + self.wpe(positions_BT)
        for layer in self.h:
            x_BTD = layer(x_BTD, attend)
        out: Tensor = self.ln_f(x_BTD)
        return out
