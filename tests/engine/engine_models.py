"""Tiny random models and a byte tokenizer for the engine's tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tokenizers
import torch
import transformers

from rung.models.families.fallback import Fallback
from rung.models.families.gemma3 import Gemma3
from rung.models.families.llama import Llama
from rung.models.layers.attend import CausalAttend
from rung.models.network import Network
from rung.records.tokenizer import Tokenizer

START, END = 256, 257


def byte_tokenizer(start_ids: tuple[int, ...] = (START,)) -> Tokenizer:
    """One token per UTF-8 byte, so that most characters beyond ASCII take several; 256 starts, 257 ends."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    return Tokenizer(inner, start_ids=start_ids, end_ids=(END,))


@dataclass(frozen=True)
class Made:
    """A model as the engine wants it."""

    network: Network
    tokenizer: Tokenizer
    source: str = "made"
    clean: bool = True


def stirred(network: Network, seed: int = 5, amount: float = 0.25) -> Network:
    """Random weights large enough that logits differ and attention matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += amount * torch.randn(parameter.shape, generator=generator)
    return network


def llama() -> Made:
    return Made(stirred(Llama.build(Llama.SIZES["tiny"])), byte_tokenizer())


def gemma() -> Made:
    return Made(stirred(Gemma3.build(Gemma3.SIZES["tiny"])), byte_tokenizer())


def wrapped() -> Made:
    """The tiny Llama behind the fallback family."""
    return Made(Fallback(reference(llama().network)), byte_tokenizer())


MODELS: dict[str, Any] = {"llama": llama, "gemma": gemma}


def reference(network: Any) -> Any:
    """The same weights in the reference library."""
    values = dict(network.published_config())
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    model = transformers.AutoModelForCausalLM.from_config(config)
    missing, unexpected = model.load_state_dict(network.state_dict(), strict=False)
    assert not unexpected
    assert all("lm_head" in name or "rotary" in name for name in missing)
    model.tie_weights()
    return model.eval()


@torch.no_grad()
def full_logits(network: Network, ids: list[int] | tuple[int, ...]) -> torch.Tensor:
    """Logits [T, V] without any cache."""
    token_ids = torch.tensor([list(ids)])
    hidden = network.hidden(token_ids, torch.arange(len(ids))[None], CausalAttend())[0]
    out = hidden @ network.output_weight.T
    return network.softcap * torch.tanh(out / network.softcap) if network.softcap else out
