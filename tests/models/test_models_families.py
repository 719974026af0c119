"""Families against the reference library: same logits, same names, both ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from rung.models.families.gemma3 import Gemma3
from rung.models.families.llama import Llama
from rung.models.layers.attend import CausalAttend, PackedAttend
from rung.models.layers.rotary import RotarySettings
from rung.models.network import Network

TINY_LLAMA = Llama.SIZES["tiny"]
TINY_GEMMA = Gemma3.SIZES["tiny"]
VARIANTS: dict[str, Any] = {
    "llama-tied": lambda: Llama.build(TINY_LLAMA),
    "llama-untied-biased": lambda: Llama.build(
        TINY_LLAMA.model_copy(update={"tied_head": False, "attention_bias": True, "feed_forward_bias": True})
    ),
    "llama-linear": lambda: Llama.build(
        TINY_LLAMA.model_copy(update={"rotary": RotarySettings(scaling="linear", factor=2.0)})
    ),
    "llama-llama3": lambda: Llama.build(
        TINY_LLAMA.model_copy(update={"rotary": RotarySettings(scaling="llama3", factor=8.0, original_context=16)})
    ),
    "gemma3": lambda: Gemma3.build(TINY_GEMMA),
    "gemma3-softcap-linear": lambda: Gemma3.build(
        TINY_GEMMA.model_copy(
            update={"softcap": 2.0, "global_rotary": RotarySettings(theta=1e6, scaling="linear", factor=8.0)}
        )
    ),
}


@pytest.fixture(params=sorted(VARIANTS))
def network(request: pytest.FixtureRequest) -> Network:
    made: Network = VARIANTS[request.param]()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return made


def logits(network: Network, token_ids: torch.Tensor, attend: Any = None) -> torch.Tensor:
    positions = torch.arange(token_ids.shape[1]).expand_as(token_ids)
    with torch.no_grad():
        out = network.hidden(token_ids, positions, attend or CausalAttend()) @ network.output_weight.T
        return network.softcap * torch.tanh(out / network.softcap) if network.softcap else out


def reference(network: Any) -> Any:
    values = dict(network.published_config())
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    )
    names = model.load_state_dict(network.state_dict(), strict=False)
    assert names.unexpected_keys == []
    assert names.missing_keys in ([], ["lm_head.weight"])
    return model.eval()


def test_logits_equal_the_reference(network: Network) -> None:
    token_ids = torch.randint(0, network.shape.vocabulary, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference(network)(token_ids).logits
    torch.testing.assert_close(logits(network, token_ids), expected, atol=1e-4, rtol=0)


def test_weights_round_trip_through_the_reference(network: Any) -> None:
    model = reference(network)
    config = model.config.to_dict()
    assert type(network).refuses(config) == ""
    again = type(network)(type(network).from_config(config))
    assert again.settings == network.settings
    theirs = {name: tensor for name, tensor in model.state_dict().items() if name in again.state_dict()}
    again.load_state_dict(theirs, strict=True)
    token_ids = torch.arange(10)[None]
    torch.testing.assert_close(logits(again, token_ids), logits(network, token_ids))


def test_packed_documents_get_the_logits_they_get_alone(network: Network) -> None:
    first, second = torch.arange(5, 25)[None], torch.arange(40, 53)[None]
    packed = torch.cat([first, second], dim=1)
    positions = torch.cat([torch.arange(20), torch.arange(13)])[None]
    with torch.no_grad():
        hidden = network.hidden(packed, positions, PackedAttend([[20, 13]]))
        alone = [network.hidden(x, torch.arange(x.shape[1])[None], CausalAttend()) for x in (first, second)]
    torch.testing.assert_close(hidden, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)


def test_the_same_seed_builds_the_same_weights() -> None:
    one, two, other = (Llama.build(TINY_LLAMA, seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)


def test_gemma_windows_and_global_layers_both_matter() -> None:
    """Forty tokens pass the tiny window of eight five times over: one windowed network and one without must differ."""
    assert 0 < sum(TINY_GEMMA.full_attention) < len(TINY_GEMMA.full_attention)
    token_ids = torch.arange(60, 100)[None]
    windowed = Gemma3.build(TINY_GEMMA)
    everywhere = Gemma3(TINY_GEMMA.model_copy(update={"window": 512}))
    everywhere.load_state_dict(windowed.state_dict())
    difference = (logits(windowed, token_ids) - logits(everywhere, token_ids)).abs()[0].amax(-1)
    assert difference[:8].max() < 1e-6
    assert difference[8:].min() > 1e-6


def test_the_text_half_of_a_multimodal_config_is_read() -> None:
    config = Gemma3.build(TINY_GEMMA).published_config()
    assert Gemma3.from_config({"model_type": "gemma3", "text_config": config, "vision_config": {}}) == TINY_GEMMA
    assert "untied" in Gemma3.refuses({"text_config": config | {"tie_word_embeddings": False}})


def test_a_rotary_scaling_that_is_not_built_is_refused_by_name() -> None:
    config = Llama.build(TINY_LLAMA).published_config() | {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}
    assert "yarn" in Llama.refuses(config)
