"""Control tokens: one id each, a row of their own, kept through files; everything else stays what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rung.base.errors import ModelError
from rung.engine.engine import Engine
from rung.models.control_tokens import CONTROL_TOKENS, with_control_tokens
from rung.models.families.fallback import Fallback
from rung.models.layers.attend import CausalAttend
from rung.models.load import load
from rung.models.publish import publish
from rung.records.contracts import Request, Sampling
from rung.records.tokenizer_training import TrainerSettings, train_tokenizer


def tiny(name: str) -> Any:
    return load(f"tiny:{name}", precision="float32", clean=False)


@torch.no_grad()
def hidden(network: Any, ids: list[int]) -> torch.Tensor:
    out: torch.Tensor = network.hidden(torch.tensor([ids]), torch.arange(len(ids))[None], CausalAttend())
    return out


@pytest.mark.parametrize("name", ["coder", "llama", "gpt2"])
def test_each_is_one_id_with_a_row_of_its_own_and_survives_save_and_load(name: str, tmp_path: Path) -> None:
    loaded = tiny(name)
    network, tokenizer = with_control_tokens(loaded.network, loaded.tokenizer)
    ids = [tokenizer.encode(token) for token in CONTROL_TOKENS]
    assert ids == [[320], [321], [322]]
    assert tokenizer.encode("so <thought>hm</thought> yes").count(320) == 1
    assert len(loaded.tokenizer.encode("<thought>")) > 1
    assert (loaded.network.shape.vocabulary, network.shape.vocabulary) == (320, 323)
    rows = network.output_weight[320:]
    assert len({tuple(row.tolist()) for row in rows}) == 3
    publish(network, tokenizer, tmp_path)
    again = load(f"dir:{tmp_path}", precision="float32", clean=False)
    assert [again.tokenizer.encode(token) for token in CONTROL_TOKENS] == ids
    assert torch.equal(again.network.output_weight, network.output_weight)
    torch.testing.assert_close(hidden(again.network, [5, 320, 7]), hidden(network, [5, 320, 7]))


def test_what_was_there_is_not_changed_and_a_second_time_nothing_is() -> None:
    loaded = tiny("coder")
    network, tokenizer = with_control_tokens(loaded.network, loaded.tokenizer)
    torch.testing.assert_close(hidden(network, [5, 6, 7]), hidden(loaded.network, [5, 6, 7]), atol=0, rtol=0)
    same, again = with_control_tokens(network, tokenizer)
    assert again.vocabulary_size == tokenizer.vocabulary_size == 323
    assert torch.equal(same.output_weight, network.output_weight)


def test_an_untied_output_gets_rows_too_and_new_rows_are_like_the_others() -> None:
    family = type(tiny("llama").network)
    network = family.build(family.SIZES["tiny"].model_copy(update={"vocabulary": 320, "tied_head": False}))
    with torch.no_grad():
        network.lm_head.weight += 3.0
    larger, _ = with_control_tokens(network.requires_grad_(True), tiny("llama").tokenizer)
    assert larger.lm_head.weight.shape == larger.model.embed_tokens.weight.shape == (323, 32)
    assert bool(((larger.lm_head.weight[320:] - 3.0).abs() < 0.1).all())
    assert not torch.equal(larger.lm_head.weight[320], larger.lm_head.weight[321])
    assert all(parameter.requires_grad for parameter in larger.parameters())


def test_the_engine_reads_and_may_draw_them() -> None:
    loaded = tiny("coder")
    network, tokenizer = with_control_tokens(loaded.network, loaded.tokenizer)
    with torch.no_grad():
        network.output_weight[320] = 40 * hidden(network, [320])[0, -1] / hidden(network, [320])[0, -1].norm()

    class Made:
        source, clean = "made", True

    made: Any = Made()
    made.network, made.tokenizer = network, tokenizer
    done = Engine(made).complete([Request("a", Sampling(temperature=0.0, max_new_tokens=2), token_ids=(320,))])[0]
    assert done.token_ids[0] == 320
    assert "<thought>" in done.text


def test_a_tokenizer_trained_with_them_has_them_and_needs_no_new_row() -> None:
    settings = TrainerSettings(vocabulary=280, min_count=1, control=CONTROL_TOKENS)
    tokenizer = train_tokenizer(["the cat sat on the mat and the dog sat on the log " * 8], settings)
    assert all(len(tokenizer.encode(token)) == 1 for token in CONTROL_TOKENS)
    family = type(tiny("coder").network)
    network = family.build(family.SIZES["tiny"].model_copy(update={"vocabulary": 280}))
    same, _ = with_control_tokens(network, tokenizer)
    assert same.shape.vocabulary == 280
    assert torch.equal(same.output_weight, network.output_weight)


def test_a_wrapped_network_is_refused() -> None:
    wrapped = Fallback.build(Fallback.from_config(tiny("llama").network.published_config()))
    with pytest.raises(ModelError, match="cannot be given tokens"):
        with_control_tokens(wrapped, tiny("llama").tokenizer)
