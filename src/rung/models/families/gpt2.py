"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

Loads checkpoints whose config says `model_type: gpt2`, small to XL and DistilGPT-2. Published files keep matrices
transposed and queries, keys and values in one; here they are apart, as everywhere in rung, and `translation` goes both
ways. Not: dropout, cross attention, scores scaled by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from rung.base.settings import Field
from rung.models.decoder import Decoder, refused_learned
from rung.models.layers.learned_positions import LearnedBody, LearnedSettings
from rung.models.network import Translation

__all__ = ["GPT2"]

_ONE, _THREE = ".attn.c_attn.", tuple(f".attn.{which}_proj." for which in "qkv")
_RENAMED = ((".attn.c_proj.", ".attn.o_proj."), (".mlp.c_fc.", ".mlp.up_proj."), (".mlp.c_proj.", ".mlp.down_proj."))
_BUILT_WITH = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}


class GPT2Settings(LearnedSettings):
    """Sizes of a GPT-2 network."""

    num_layers: int = Field(ge=1, description="decoder layers")


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


def _narrow(settings: GPT2Settings) -> Callable[[str], float]:
    """What is added to the residual stream begins smaller, by the square root of how often that happens."""
    narrow = 0.02 * (2 * settings.num_layers) ** -0.5
    return lambda name: narrow if name.endswith(("o_proj", "down_proj")) else 0.02


class GPT2(Decoder):
    """A GPT-2 network."""

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
    body_name: ClassVar[str] = "transformer"
    deviations: ClassVar[Callable[[Any], Callable[[str], float]]] = staticmethod(_narrow)
    settings: GPT2Settings

    def __init__(self, settings: GPT2Settings) -> None:
        windows = (0,) * settings.num_layers
        super().__init__(
            settings, LearnedBody(settings, windows, scale=settings.head_width**-0.5, bias=True), tied=True
        )

    @staticmethod
    def refuses(config: Mapping[str, Any]) -> str:
        """Why this family cannot run a published config, empty when it can."""
        other = (f"{key} is not built" for key, value in _BUILT_WITH.items() if config.get(key, value) != value)
        return refused_learned(config) or next(other, "")

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
