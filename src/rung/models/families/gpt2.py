"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

Loads checkpoints whose config says `model_type: gpt2`, small to XL and DistilGPT-2. Published files keep matrices
transposed and queries, keys and values in one; here they are apart, as everywhere in rung, and `translation` goes both
ways. Not: dropout, cross attention, scores scaled by layer.

Legend: B batch, T token, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from rung.base.settings import Field, Settings
from rung.models.initialise import built
from rung.models.layers.learned_positions import LearnedBody, LearnedOptions
from rung.models.network import Attend, Network, Shape, Translation

__all__ = ["GPT2"]

_ONE, _THREE = ".attn.c_attn.", tuple(f".attn.{which}_proj." for which in "qkv")
_RENAMED = ((".attn.c_proj.", ".attn.o_proj."), (".mlp.c_fc.", ".mlp.up_proj."), (".mlp.c_proj.", ".mlp.down_proj."))
_BUILT_WITH = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}


class GPT2Settings(Settings):
    """Sizes of a GPT-2 network."""

    vocabulary: int = Field(ge=1, description="rows of the embedding")
    width: int = Field(ge=2, description="width of the residual stream; num_heads divides it")
    inner_width: int = Field(ge=1, description="width inside the feed-forward layer")
    num_layers: int = Field(ge=1, description="decoder layers")
    num_heads: int = Field(ge=1, description="attention heads")
    max_context: int = Field(1024, ge=1, description="learned positions: longer texts cannot be read")
    norm_epsilon: float = Field(1e-5, gt=0, description="added to the variance in norms")


def _read(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors to ours: c_attn cut in three, matrices turned."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = zip(_THREE, tensor.chunk(3, dim=-1), strict=True) if _ONE in name else [(_ONE, tensor)]
        for own, part in parts:
            found[_named(name.replace(_ONE, own), 0)] = _turned(name, part)
    return found


def _write(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Ours to published ones."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        first = next((own for own in _THREE if own in name), "")
        if not first:
            found[_named(name, 1)] = _turned(name, tensor)
        elif first == _THREE[0]:
            three = [_turned(name, tensors[name.replace(first, own)]) for own in _THREE]
            found[name.replace(first, _ONE)] = torch.cat(three, dim=-1)
    return found


def _named(name: str, direction: int) -> str:
    for pair in _RENAMED:
        name = name.replace(pair[direction], pair[1 - direction])
    return name


def _turned(name: str, tensor: Tensor) -> Tensor:
    return tensor.T.contiguous() if ".h." in name and tensor.ndim == 2 else tensor


class GPT2(Network):
    """A GPT-2 network. `build` makes one with random weights, `from_config` reads a published config."""

    Settings: ClassVar[type[GPT2Settings]] = GPT2Settings
    SIZES: ClassVar[dict[str, GPT2Settings]] = {
        "tiny": GPT2Settings(vocabulary=300, width=32, inner_width=64, num_layers=2, num_heads=4, max_context=512),
        "124m": GPT2Settings(vocabulary=50257, width=768, inner_width=3072, num_layers=12, num_heads=12),
    }
    model_types: ClassVar[tuple[str, ...]] = ("gpt2",)
    # the first releases have no prefix
    renames: ClassVar[tuple[tuple[str, str], ...]] = tuple(
        (start, f"transformer.{start}") for start in ("wte.", "wpe.", "h.", "ln_f.")
    )
    # causal masks that old releases kept among the weights
    ignored: ClassVar[tuple[str, ...]] = (".attn.bias", ".attn.masked_bias")
    translation: ClassVar[Translation] = Translation(_read, _write)

    def __init__(self, settings: GPT2Settings) -> None:
        super().__init__()
        self.settings = settings
        head_width = settings.width // settings.num_heads
        self.transformer = LearnedBody(
            LearnedOptions(
                vocabulary=settings.vocabulary,
                max_context=settings.max_context,
                width=settings.width,
                inner_width=settings.inner_width,
                num_heads=settings.num_heads,
                windows=(0,) * settings.num_layers,
                scale=head_width**-0.5,
                bias=True,
                norm_epsilon=settings.norm_epsilon,
            )
        )
        self.shape = Shape(
            vocabulary=settings.vocabulary,
            width=settings.width,
            num_layers=settings.num_layers,
            num_heads=settings.num_heads,
            num_kv_heads=settings.num_heads,
            head_width=head_width,
            max_context=settings.max_context,
        )

    @classmethod
    def build(cls, settings: GPT2Settings, seed: int = 0) -> GPT2:
        """A network with random weights, the same for the same seed; what is added to the residual stream begins
        smaller, by the square root of how often that happens."""
        narrow = 0.02 * (2 * settings.num_layers) ** -0.5
        network = built(
            lambda: cls(settings), seed, lambda name: narrow if name.endswith(("o_proj", "down_proj")) else 0.02
        )
        assert isinstance(network, GPT2)
        return network

    @staticmethod
    def refuses(config: Mapping[str, Any]) -> str:
        """Why this family cannot run a published config, empty when it can."""
        if not config.get("tie_word_embeddings", True):
            return "an untied head is not built"
        activation = config.get("activation_function", "gelu_new")
        if activation not in ("gelu_new", "gelu_pytorch_tanh"):
            return f"activation '{activation}' is not built"
        return next(
            (f"{key} is not built" for key, value in _BUILT_WITH.items() if config.get(key, value) != value), ""
        )

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> GPT2Settings:
        """Settings from a published `config.json`; call `refuses` first."""
        return GPT2Settings(
            vocabulary=config["vocab_size"],
            width=config["n_embd"],
            inner_width=config.get("n_inner") or 4 * config["n_embd"],
            num_layers=config["n_layer"],
            num_heads=config["n_head"],
            max_context=config.get("n_positions", 1024),
            norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        )

    def published_config(self) -> dict[str, Any]:
        """A `config.json` that transformers and `from_config` read."""
        s = self.settings
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": s.vocabulary,
            "n_embd": s.width,
            "n_inner": s.inner_width,
            "n_layer": s.num_layers,
            "n_head": s.num_heads,
            "n_positions": s.max_context,
            "layer_norm_epsilon": s.norm_epsilon,
            "activation_function": "gelu_new",
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "tie_word_embeddings": True,
        }

    def hidden(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Final hidden states [B, T, D], normalised; see `rung.models.network.Network.hidden`."""
        out: Tensor = self.transformer(token_ids_BT, positions_BT, attend)
        return out

    @property
    def output_weight(self) -> Tensor:
        """The embedding [V, D], which is also the output projection."""
        return self.transformer.wte.weight
