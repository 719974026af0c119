"""Presets have the parameters that their names say; the reference shape is not a toy."""

from __future__ import annotations

import re

import pytest
import torch

from rung.base.lookup import known, lookup
from rung.models.families.coder import Coder
from rung.models.size import Size, size_of

EXACT = {
    ("llama", "1m"): 1_042_496,
    ("llama", "3m"): 2_863_232,
    ("llama", "8m"): 8_364_288,
    ("llama", "28m"): 28_328_448,
    ("llama", "135m"): 134_515_008,
    ("gpt_neo", "1m"): 1_071_232,
    ("gpt_neo", "3m"): 2_928_896,
    ("gpt_neo", "8m"): 8_214_528,
    ("gpt_neo", "28m"): 27_439_104,
    ("gpt_neo", "125m"): 125_198_592,
    ("gpt2", "124m"): 124_439_808,
    ("qwen3", "600m"): 596_049_920,
    ("gemma3", "270m"): 268_098_176,
    ("coder", "8m"): 8_023_488,
    ("coder", "reference"): 1_336_364_544,
    ("coder", "old"): 373_867_520,
}


def measured(name: str, size: str) -> Size:
    family = lookup("models.families", name)
    with torch.device("meta"):
        return size_of(family(family.SIZES[size]))


@pytest.mark.parametrize(("name", "size"), sorted(EXACT))
def test_a_preset_has_exactly_so_many_parameters(name: str, size: str) -> None:
    found = measured(name, size).num_parameters
    assert found == EXACT[name, size]
    if match := re.fullmatch(r"(\d+)m", size):
        assert abs(found / 1e6 / int(match[1]) - 1) < 0.1


def test_every_named_size_is_counted() -> None:
    named = {(n, s) for n in known("models.families") for s in lookup("models.families", n).SIZES if s != "tiny"}
    assert named == set(EXACT)


def test_the_reference_shape_is_the_one_that_was_asked_for() -> None:
    s = Coder.SIZES["reference"]
    assert (s.num_layers, s.width, s.num_heads, s.num_kv_heads) == (14, 1536, 24, 6)
    assert (s.vocabulary, s.num_experts, s.num_active, s.max_context) == (64_000, 8, 2, 8_192)
    old = Coder.SIZES["old"]
    assert (old.num_layers, old.width, old.vocabulary, old.max_context, old.num_experts) == (24, 1024, 32_000, 4_096, 0)


def test_what_a_token_uses_is_counted_by_hand() -> None:
    s = Coder.SIZES["tiny"]
    found = measured("coder", "tiny")
    attention = s.num_layers * (2 * 64 * 64 + 2 * 64 * 32)
    expert, router, norms = s.num_layers * 3 * 64 * 64, s.num_layers * 4 * 64, 64 * (2 * s.num_layers + 1)
    assert found.num_parameters == 320 * 64 + attention + 4 * expert + router + norms
    assert found.num_active == found.num_parameters - 2 * expert
    assert found.flops == 2 * (320 * 64 + attention + 2 * expert + router)
    assert found.cache_numbers == 2 * 2 * 2 * 16
