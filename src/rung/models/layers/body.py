"""Bodies of decoders: ids and positions to final, normalised hidden states.

`RotaryBody` is the one that Llama made usual: layers with a root-mean-square norm before attention and before the
feed-forward layer, and rotary positions. `rung.models.layers.learned_positions` has that of GPT.

Legend: B batch, T token, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Protocol

from torch import Tensor, nn

from rung.models.layers.attention import Attention, AttentionOptions
from rung.models.layers.normalisation import RMSNorm
from rung.models.layers.rotary import Rotary
from rung.models.network import Attend

__all__ = ["Body", "DecoderLayer", "RotaryBody", "Sizes", "StackedBody"]


class Sizes(Protocol):
    """What settings say of a body."""

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""

    @property
    def width(self) -> int:
        """Of the residual stream."""

    @property
    def norm_epsilon(self) -> float:
        """Of the last norm."""


class Body(nn.Module, ABC):
    """What is between ids and the output projection."""

    @abstractmethod
    def forward(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Hidden states [B, T, D]."""

    @property
    @abstractmethod
    def embedding(self) -> nn.Embedding:
        """Of the tokens."""


class DecoderLayer(nn.Module):
    """Attention and a feed-forward layer, each added to the residual stream."""

    def __init__(self, index: int, options: AttentionOptions, feed_forward: nn.Module, norm_epsilon: float) -> None:
        super().__init__()
        self.self_attn = Attention(index, options)
        self.mlp = feed_forward
        self.input_layernorm = RMSNorm(options.width, norm_epsilon)
        self.post_attention_layernorm = RMSNorm(options.width, norm_epsilon)

    def forward(self, x_BTD: Tensor, angles: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), angles, attend)
        out: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out


class StackedBody(Body):
    """An embedding, layers, and a norm (`centred`: as Gemma reads it), under the names of Llama's files."""

    def __init__(self, sizes: Sizes, layers: Iterable[nn.Module], *, centred: bool = False) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(sizes.width, sizes.norm_epsilon, centred)

    @property
    def embedding(self) -> nn.Embedding:
        """See `Body`."""
        return self.embed_tokens


class RotaryBody(StackedBody):
    """Every layer turns its queries and keys by the same angles."""

    def __init__(self, sizes: Sizes, layers: Iterable[nn.Module], rotary: Rotary) -> None:
        super().__init__(sizes, layers)
        self._rotary = rotary

    def forward(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """See `Body`."""
        x_BTD = self.embed_tokens(token_ids_BT)
        angles = self._rotary.angles(positions_BT, x_BTD.dtype)
        for layer in self.layers:
            x_BTD = layer(x_BTD, angles, attend)
        out: Tensor = self.norm(x_BTD)
        return out
