"""The body of GPT: learned positions, layer norms before each sub-layer, plain feed-forward layers.

Legend: B batch, T token, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rung.base.settings import Field, Settings
from rung.models.layers.attention import Attention, AttentionOptions
from rung.models.layers.body import Body
from rung.models.layers.feed_forward import PlainFeedForward
from rung.models.network import Attend

__all__ = ["LearnedBody", "LearnedSettings"]


class LearnedSettings(Settings):
    """Sizes of such a body; every query head has its own key/value head."""

    vocabulary: int = Field(ge=1, description="rows of the embedding")
    width: int = Field(ge=2, description="width of the residual stream; num_heads divides it")
    inner_width: int = Field(ge=1, description="width inside the feed-forward layer")
    num_heads: int = Field(ge=1, description="attention heads")
    max_context: int = Field(1024, ge=1, description="learned positions: longer texts cannot be read")
    norm_epsilon: float = Field(1e-5, gt=0, description="added to the variance in norms")

    @property
    def num_kv_heads(self) -> int:
        """As many as there are query heads."""
        return self.num_heads

    @property
    def head_width(self) -> int:
        """Its share of the width."""
        return self.width // self.num_heads


class _Layer(nn.Module):
    def __init__(self, index: int, s: LearnedSettings, options: AttentionOptions) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(s.width, s.norm_epsilon)
        self.attn = Attention(index, options)
        self.ln_2 = nn.LayerNorm(s.width, s.norm_epsilon)
        self.mlp = PlainFeedForward(s.width, s.inner_width)

    def forward(self, x_BTD: Tensor, attend: Attend) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        x_BTD = x_BTD + self.attn(self.ln_1(x_BTD), None, attend)
        out: Tensor = x_BTD + self.mlp(self.ln_2(x_BTD))
        return out


class LearnedBody(Body):
    """The tokens' embedding and that of their positions, layers, and a norm.

    `windows`: of every layer, the tokens that it sees, 0 for all; `scale` of the scores; `bias`: queries, keys and
    values have one (the output projection always does).
    """

    def __init__(self, s: LearnedSettings, windows: Sequence[int], *, scale: float, bias: bool) -> None:
        super().__init__()
        self.wte = nn.Embedding(s.vocabulary, s.width)
        self.wpe = nn.Embedding(s.max_context, s.width)
        options = [
            AttentionOptions(
                width=s.width,
                num_heads=s.num_heads,
                num_kv_heads=s.num_kv_heads,
                head_width=s.head_width,
                scale=scale,
                window=window,
                bias=bias,
                output_bias=True,
            )
            for window in windows
        ]
        self.h = nn.ModuleList(_Layer(index, s, one) for index, one in enumerate(options))
        self.ln_f = nn.LayerNorm(s.width, s.norm_epsilon)

    def forward(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """See `Body`."""
        x_BTD = self.wte(token_ids_BT) + self.wpe(positions_BT)
        for layer in self.h:
            x_BTD = layer(x_BTD, attend)
        out: Tensor = self.ln_f(x_BTD)
        return out

    @property
    def embedding(self) -> nn.Embedding:
        """See `Body`."""
        return self.wte
