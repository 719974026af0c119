"""The usual adapter on networks that have only some of the usual projections (item 222)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rung.base.errors import ModelError
from rung.models.layers.attend import CausalAttend
from rung.models.load import load
from rung.models.network import Network
from rung.train.adapters import attach_adapter, merge, prepare, save_adapter, trainable
from rung.train.settings import AdapterSettings

EXPECTED = {
    "gpt2": {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"},
    "gpt_neo": {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"},
    "coder": {"q_proj", "k_proj", "v_proj", "o_proj"},
}


def fresh(family: str) -> Network:
    made: Network = load(f"tiny:{family}", precision="float32", clean=False, strict=False).network
    return made


@torch.no_grad()
def outputs(network: Network) -> Tensor:
    ids = torch.arange(5, 25)[None]
    return network.hidden(ids, torch.arange(20)[None], CausalAttend())


@pytest.mark.parametrize("family", EXPECTED)
def test_the_projections_that_are_there_get_one_and_it_survives_saving_and_merging(family: str, tmp_path: Path) -> None:
    network = fresh(family)
    before = outputs(network)
    prepare(network, AdapterSettings(rank=2), 1)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trainable(network)} == EXPECTED[family]
    for parameter in trainable(network).values():
        parameter.data.normal_(0, 0.1)
    changed = outputs(network)
    assert not torch.allclose(changed, before, atol=1e-3)
    save_adapter(network, tmp_path)
    other = fresh(family)
    attach_adapter(other, tmp_path)
    assert torch.allclose(outputs(other), changed, atol=1e-5)
    merge(other)
    assert torch.allclose(outputs(other), changed, atol=1e-4)


def test_one_that_was_asked_for_by_name_must_be_there() -> None:
    with pytest.raises(ModelError, match="no projection called 'gate_proj'"):
        prepare(fresh("gpt2"), AdapterSettings(targets=("q_proj", "gate_proj")), 1)
