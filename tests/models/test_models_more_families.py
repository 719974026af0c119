"""What sets GPT-2, GPT-Neo, Qwen 3 and coder apart: choices beyond the tiny size, old files, what each declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

from rung.base.errors import ModelError
from rung.models.families.coder import Coder
from rung.models.families.gpt2 import GPT2
from rung.models.families.gpt_neo import GPTNeo
from rung.models.families.qwen3 import Qwen3
from rung.models.layers.attend import CausalAttend
from rung.models.layers.rotary import RotarySettings
from rung.models.load import load
from rung.models.publish import publish
from rung.models.published import open_network

TINY_NEO = GPTNeo.SIZES["tiny"]
CHOICES: dict[str, tuple[Any, dict[str, Any]]] = {
    "qwen3-untied-biased": (Qwen3, {"tied_head": False, "attention_bias": True}),
    "qwen3-linear": (Qwen3, {"rotary": RotarySettings(theta=1e4, scaling="linear", factor=4.0)}),
    "gpt2-deep": (GPT2, {"num_layers": 3, "inner_width": 80, "norm_epsilon": 1e-3}),
    "gpt_neo-local-first": (GPTNeo, {"full_attention": (False, False, True), "window": 3}),
    "coder-untied-llama3": (
        Coder,
        {"tied_head": False, "rotary": RotarySettings(scaling="llama3", factor=8.0, original_context=16)},
    ),
    "coder-one-active": (Coder, {"num_experts": 5, "num_active": 1}),
    "coder-dense": (Coder, {"num_experts": 0}),
}


def stirred(family: Any, **choices: Any) -> Any:
    network = family.build(family.SIZES["tiny"].model_copy(update={"vocabulary": 320, **choices}))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@torch.no_grad()
def logits(network: Any, ids: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = network.hidden(ids, torch.arange(ids.shape[1]).expand_as(ids), CausalAttend())
    return out @ network.output_weight.T


IDS = torch.randint(0, 320, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("choice", sorted(CHOICES))
def test_choices_beyond_the_tiny_size_equal_the_reference(choice: str, tmp_path: Path) -> None:
    family, choices = CHOICES[choice]
    network = stirred(family, **choices)
    publish(network, load("tiny:llama", precision="float32", clean=False).tokenizer, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(network, IDS), model(IDS).logits, atol=1e-4, rtol=0)
    again = open_network(tmp_path, torch.float32)
    torch.testing.assert_close(logits(again.network, IDS), logits(network, IDS), atol=1e-6, rtol=0)


def test_gpt2_reads_the_first_releases_without_prefix_and_with_masks(tmp_path: Path) -> None:
    network = stirred(GPT2)
    publish(network, load("tiny:llama", precision="float32", clean=False).tokenizer, tmp_path)
    path = tmp_path / "model.safetensors"
    old = {name.removeprefix("transformer."): t for name, t in safetensors.torch.load_file(path).items()}
    assert "h.0.attn.c_attn.weight" in old
    safetensors.torch.save_file({**old, "h.0.attn.bias": torch.ones(1, 1, 8, 8)}, path)
    torch.testing.assert_close(logits(open_network(tmp_path, torch.float32).network, IDS), logits(network, IDS))


def test_a_tied_head_that_is_published_again_is_no_stranger_and_another_one_is(tmp_path: Path) -> None:
    network = stirred(GPTNeo)
    publish(network, load("tiny:llama", precision="float32", clean=False).tokenizer, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    head = tensors["transformer.wte.weight"].clone()
    safetensors.torch.save_file({**tensors, "lm_head.weight": head}, path)
    torch.testing.assert_close(logits(open_network(tmp_path, torch.float32).network, IDS), logits(network, IDS))
    safetensors.torch.save_file({**tensors, "lm_head.weight": head + 1}, path)
    with pytest.raises(ModelError, match=r"unexpected: lm_head\.weight"):
        open_network(tmp_path, torch.float32)


def test_gpt_neo_windows_and_unscaled_scores_both_matter() -> None:
    windowed = stirred(GPTNeo)
    everywhere = GPTNeo(windowed.settings.model_copy(update={"window": 512})).eval()
    everywhere.load_state_dict(windowed.state_dict())
    difference = (logits(windowed, IDS) - logits(everywhere, IDS)).abs().amax(-1)
    assert difference[:, :8].max() < 1e-5
    assert difference[:, 8:].min() > 1e-5
    assert [layer.attn.options.window for layer in windowed.transformer.h] == [0, 8]
    assert all(layer.attn.options.scale == 1.0 for layer in windowed.transformer.h)


def test_residual_projections_begin_narrow_in_gpt2_alone() -> None:
    """What an architecture declares of its beginning is done for it and for no other."""
    for family, narrow in ((GPT2, (2 * 2) ** -0.5), (GPTNeo, 1.0)):
        layer = family.build(family.SIZES["tiny"].model_copy(update={"width": 64, "inner_width": 256})).transformer.h[1]
        for module, share in ((layer.attn.q_proj, 1.0), (layer.attn.o_proj, narrow), (layer.mlp.down_proj, narrow)):
            assert float(module.weight.detach().std()) == pytest.approx(0.02 * share, rel=0.05)


def test_qwen3_norms_queries_and_keys_of_every_head() -> None:
    network = stirred(Qwen3)
    before = logits(network, IDS)
    with torch.no_grad():
        for layer in network.model.layers:
            layer.self_attn.q_proj.weight *= 7
            layer.self_attn.k_proj.weight *= 7
    torch.testing.assert_close(logits(network, IDS), before, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("family", "changed", "reason"),
    [
        (GPT2, {"tie_word_embeddings": False}, "untied"),
        (GPT2, {"activation_function": "relu"}, "relu"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (GPTNeo, {"activation_function": "silu"}, "silu"),
        (GPTNeo, {"tie_word_embeddings": False}, "untied"),
        (Qwen3, {"use_sliding_window": True}, "sliding"),
        (Qwen3, {"hidden_act": "gelu"}, "gelu"),
        (Coder, {"sliding_window": 4096}, "sliding"),
        (Coder, {"hidden_act": "relu"}, "relu"),
        (Coder, {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
    ],
)
def test_what_is_not_built_is_refused_by_name(family: Any, changed: dict[str, Any], reason: str) -> None:
    config = family.build(family.SIZES["tiny"]).published_config()
    assert family.refuses(config) == ""
    assert reason in family.refuses(config | changed)


def test_gpt_neos_short_form_of_its_layers_is_read() -> None:
    config = GPTNeo.build(TINY_NEO).published_config()
    short = {k: v for k, v in config.items() if k != "attention_layers"} | {
        "attention_types": [[["global", "local"], 3]], "num_layers": 6,
    }  # fmt: skip
    assert GPTNeo.from_config(short).full_attention == (True, False) * 3
