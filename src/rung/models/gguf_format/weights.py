"""GGUF architectures we convert: their config in the published layout, and their tensors under the published names.

Two changes made by llama.cpp's converter are undone: Llama's query and key rows are interleaved for its rotary code,
and Gemma's norm weights have 1 added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy

from rung.base.errors import ModelError
from rung.models.gguf_format.reading import GgufFile

__all__ = ["config", "weights"]

Array = numpy.ndarray[Any, Any]

BODY_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NORMS_BY_ARCHITECTURE = {
    "llama": {"ffn_norm": "post_attention_layernorm"},
    "gemma3": {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}
GEMMA3_LAYERS_OF_27B = 62


def config(file: GgufFile) -> dict[str, Any]:
    """The `config.json` of the model in `file`.

    Raises:
        ModelError: an architecture or a rotary scaling that is not converted.
    """
    architecture = file.need("general.architecture")
    makers: dict[str, Callable[[GgufFile], dict[str, Any]]] = {"llama": _llama, "gemma3": _gemma3}
    if architecture not in makers:
        raise ModelError(
            f"GGUF files of architecture '{architecture}' are not converted",
            place=str(file.path),
            hint=f"known: {', '.join(sorted(makers))}; other models load from hf:org/name",
        )
    return makers[architecture](file) | _token_ids(file)


def weights(file: GgufFile) -> Iterator[tuple[str, Array]]:
    """(published name, float32 array) for every tensor of the file."""
    architecture = file.need("general.architecture")
    for name, values in file.tensors():
        if architecture == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
            values = _split_halves(values, _num_heads(file, name))
        if architecture == "gemma3" and name.endswith("norm.weight"):
            values = values - 1.0
        yield _published(name, architecture, file), values


def _published(name: str, architecture: str, file: GgufFile) -> str:
    if name in BODY_NAMES:
        return BODY_NAMES[name]
    parts = name.split(".")
    known = LAYER_NAMES | NORMS_BY_ARCHITECTURE[architecture]
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in known:
        return f"model.layers.{parts[1]}.{known[parts[2]]}.{parts[3]}"
    raise ModelError(
        f"no published name is known for tensor '{name}' of a {architecture} model",
        place=str(file.path),
        hint="load the model from hf:org/name instead",
    )


def _num_heads(file: GgufFile, name: str) -> int:
    key = "attention.head_count_kv" if "attn_k" in name else "attention.head_count"
    return int(file.get(f"llama.{key}") or file.need("llama.attention.head_count"))


def _split_halves(values: Array, num_heads: int) -> Array:
    """Rows of each head from (pair, half) order back to (half, pair) order."""
    rows, columns = values.shape
    paired = values.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return numpy.ascontiguousarray(paired.swapaxes(1, 2).reshape(rows, columns))


def _sizes(file: GgufFile, architecture: str) -> dict[str, Any]:
    num_heads = file.need(f"{architecture}.attention.head_count")
    width = file.need(f"{architecture}.embedding_length")
    return {
        "vocab_size": file.shape("token_embd.weight")[0],
        "hidden_size": width,
        "intermediate_size": file.need(f"{architecture}.feed_forward_length"),
        "num_hidden_layers": file.need(f"{architecture}.block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": file.get(f"{architecture}.attention.head_count_kv", num_heads),
        "head_dim": file.get(f"{architecture}.attention.key_length", width // num_heads),
        "max_position_embeddings": file.need(f"{architecture}.context_length"),
        "rms_norm_eps": _short(file.need(f"{architecture}.attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": "output.weight" not in file.names(),
    }


def _llama(file: GgufFile) -> dict[str, Any]:
    if "rope_freqs.weight" in file.names():
        raise ModelError(
            "the file stretches rotary frequencies by a table, which is not converted",
            place=str(file.path),
            hint="load the model from hf:org/name instead",
        )
    rope = {"rope_type": "default", "rope_theta": file.get("llama.rope.freq_base", 10000.0)}
    names = file.names()
    return _sizes(file, "llama") | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_parameters": rope | _scaling(file, "llama"),
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "hidden_act": "silu",
    }


def _gemma3(file: GgufFile) -> dict[str, Any]:
    sizes = _sizes(file, "gemma3")
    big = sizes["num_hidden_layers"] == GEMMA3_LAYERS_OF_27B
    everywhere = {"rope_type": "default", "rope_theta": file.get("gemma3.rope.freq_base", 1e6)}
    return sizes | {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "sliding_window": file.need("gemma3.attention.sliding_window"),
        "layer_types": [
            "sliding_attention" if (index + 1) % 6 else "full_attention" for index in range(sizes["num_hidden_layers"])
        ],
        # the file does not say it: the technical report's value is the head width, but for the largest model
        "query_pre_attn_scalar": sizes["hidden_size"] // sizes["num_attention_heads"] if big else sizes["head_dim"],
        "rope_parameters": {
            "full_attention": everywhere | _scaling(file, "gemma3"),
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        "hidden_activation": "gelu_pytorch_tanh",
    }


def _scaling(file: GgufFile, architecture: str) -> dict[str, Any]:
    kind = file.get(f"{architecture}.rope.scaling.type", "none")
    if kind == "none":
        return {}
    if kind != "linear":
        raise ModelError(f"rotary scaling '{kind}' of a GGUF file is not converted", place=str(file.path))
    return {"rope_type": "linear", "factor": file.need(f"{architecture}.rope.scaling.factor")}


def _token_ids(file: GgufFile) -> dict[str, Any]:
    names = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}
    found = {ours: file.get(f"tokenizer.ggml.{theirs}_token_id") for theirs, ours in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def _short(value: float) -> float:
    """A float32 as the decimal it was written as (1e-06, not 9.999999974752427e-07)."""
    return float(str(numpy.float32(value)))
