"""Self-attention up to the point where tokens see each other; that point is the caller's `Attend`.

Legend: B batch, T token, D width, H query heads, K key/value heads, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from rung.models.layers.normalisation import RMSNorm
from rung.models.layers.projection import project, project_all
from rung.models.layers.rotary import rotate
from rung.models.network import Attend

__all__ = ["Attention", "AttentionOptions"]


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """Sizes and choices of one attention layer. `window` 0 is full attention; `norm_epsilon` 0 means no q/k norm, and
    `centred` says which reading of it (see `RMSNorm`); `output_bias` None: as the other three projections."""

    width: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    scale: float
    window: int = 0
    bias: bool = False
    norm_epsilon: float = 0.0
    centred: bool = True
    output_bias: bool | None = None


class Attention(nn.Module):
    """Projects, normalises and rotates queries and keys, hands them to `attend`, projects the answer.

    `layer` is the index that an `Attend` with a cache stores keys and values under.
    """

    def __init__(self, layer: int, options: AttentionOptions) -> None:
        super().__init__()
        self.layer, self.options = layer, options
        inner, shared = options.num_heads * options.head_width, options.num_kv_heads * options.head_width
        self.q_proj = nn.Linear(options.width, inner, bias=options.bias)
        self.k_proj = nn.Linear(options.width, shared, bias=options.bias)
        self.v_proj = nn.Linear(options.width, shared, bias=options.bias)
        output_bias = options.bias if options.output_bias is None else options.output_bias
        self.o_proj = nn.Linear(inner, options.width, bias=output_bias)
        norm = (options.head_width, options.norm_epsilon, options.centred)
        self.q_norm = RMSNorm(*norm) if options.norm_epsilon > 0 else None
        self.k_norm = RMSNorm(*norm) if options.norm_epsilon > 0 else None

    def forward(self, x_BTD: Tensor, angles: tuple[Tensor, Tensor] | None, attend: Attend) -> Tensor:
        """[B, T, D] to [B, T, D]; `angles` are the cosine and sine of `Rotary.angles`, None: nothing is rotated."""
        heads = (*x_BTD.shape[:2], -1, self.options.head_width)
        query_BTHd, key_BTKd, value_BTKd = (
            made.view(heads) for made in project_all((self.q_proj, self.k_proj, self.v_proj), x_BTD)
        )
        if self.q_norm is not None and self.k_norm is not None:
            query_BTHd, key_BTKd = self.q_norm(query_BTHd), self.k_norm(key_BTKd)
        if angles is not None:
            query_BTHd, key_BTKd = rotate(query_BTHd, *angles), rotate(key_BTKd, *angles)
        seen_BTHd = attend(
            self.layer, query_BTHd, key_BTKd, value_BTKd, scale=self.options.scale, window=self.options.window
        )
        return project(self.o_proj, seen_BTHd.flatten(2))
