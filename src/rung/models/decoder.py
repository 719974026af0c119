"""What decoders have in common, so that a family's file says only what is its own.

`Decoder` is the network: a body under the name that published files give it, and a head that is the embedding's matrix
or one of its own. `DecoderSettings` are the sizes that Llama made usual, and the two functions beside them go between
these and what a published `config.json` calls them; families of other sizes have settings of their own.

Legend: B batch, T token, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from rung.base.settings import Field, Settings
from rung.models.initialise import built
from rung.models.layers.attention import AttentionOptions
from rung.models.layers.body import Body
from rung.models.layers.rotary import RotarySettings
from rung.models.network import Attend, Network, Shape
from rung.models.rope_config import published_rope, refused_rope, rotary_of

__all__ = ["Decoder", "DecoderSettings", "published_sizes", "refused_learned", "refused_sizes", "sizes_of"]


class DecoderSettings(Settings):
    """Sizes of a decoder whose query heads share key/value heads, with rotary positions."""

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

    def attention(self, **own: Any) -> AttentionOptions:
        """Of every layer, with what is the family's own."""
        return AttentionOptions(
            width=self.width,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_width=self.head_width,
            scale=self.head_width**-0.5,
            **own,
        )


def refused_sizes(config: Mapping[str, Any]) -> str:
    """Why a Llama-like published config cannot be run, empty when it can."""
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        return f"activation '{config['hidden_act']}' is not built"
    return refused_rope(config)


def sizes_of(
    config: Mapping[str, Any], *, max_context: int, norm_epsilon: float, head_width: int = 0
) -> dict[str, Any]:
    """Values of `DecoderSettings` in a Llama-like published config; what it leaves out is as given (`head_width` 0: the
    heads share the width)."""
    num_heads = config["num_attention_heads"]
    return {
        "vocabulary": config["vocab_size"],
        "width": config["hidden_size"],
        "inner_width": config["intermediate_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": num_heads,
        "num_kv_heads": config.get("num_key_value_heads") or num_heads,
        "head_width": config.get("head_dim") or head_width or config["hidden_size"] // num_heads,
        "max_context": config.get("max_position_embeddings", max_context),
        "norm_epsilon": config.get("rms_norm_eps", norm_epsilon),
        "rotary": rotary_of(config),
        "tied_head": config.get("tie_word_embeddings", False),
    }


def published_sizes(s: DecoderSettings) -> dict[str, Any]:
    """The same in the words of a `config.json`. The order of its keys is part of what a published model is known by."""
    return {
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
    }


def refused_learned(config: Mapping[str, Any]) -> str:
    """Why a GPT-like published config cannot be run, empty when it can."""
    if not config.get("tie_word_embeddings", True):
        return "an untied head is not built"
    activation = config.get("activation_function", "gelu_new")
    return "" if activation in ("gelu_new", "gelu_pytorch_tanh") else f"activation '{activation}' is not built"


def _even(settings: Any) -> Callable[[str], float]:
    return lambda name: 0.02


class Decoder(Network):
    """Base of the families of rung: `build` makes one with random weights, a family's `from_config` reads a published
    config.

    Args:
        settings: the family's, with every value of `Shape` as a field or a property.
        body: ids to final hidden states.
        tied: the output projection is the embedding.
    """

    body_name: ClassVar[str] = "model"
    """What the body is called in published files."""
    deviations: ClassVar[Callable[[Any], Callable[[str], float]]] = staticmethod(_even)
    """By settings: the deviation of random weights, by the name of the module that a matrix is in."""
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    settings: Any
    lm_head: nn.Linear | None

    def __init__(self, settings: Any, body: Body, *, tied: bool) -> None:
        super().__init__()
        self.settings = settings
        self.add_module(self.body_name, body)
        self.lm_head = None if tied else nn.Linear(settings.width, settings.vocabulary, bias=False)
        self.shape = Shape(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Shape)})

    @classmethod
    def build(cls, settings: Any, seed: int = 0) -> Self:
        """A network with random weights, the same for the same seed."""
        make: Callable[[Any], Self] = cls
        return built(lambda: make(settings), seed, cls.deviations(settings))

    def hidden(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Final hidden states [B, T, D], normalised; see `rung.models.network.Network.hidden`."""
        out: Tensor = self._body(token_ids_BT, positions_BT, attend)
        return out

    @property
    def output_weight(self) -> Tensor:
        """The output projection's weight [V, D]."""
        return self._body.embedding.weight if self.lm_head is None else self.lm_head.weight

    @property
    def _body(self) -> Body:
        body = self.get_submodule(self.body_name)
        assert isinstance(body, Body)
        return body
