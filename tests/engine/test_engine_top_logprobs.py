"""The likeliest tokens at every place: those of the unmodified model, whatever is drawn and forbidden."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.engine.engine_models import full_logits, llama

from rung.base.errors import SettingsError
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.records.contracts import Request, Sampling

WARM = Sampling(temperature=1.3, top_p=0.9, repetition_penalty=1.4, max_new_tokens=8)
PLAIN = Request("a", WARM, seed=3, token_ids=(5, 6, 7, 5), top_logprobs=4)


@pytest.mark.parametrize("keep_logprobs", [True, False])
@pytest.mark.parametrize("constraint", [None, {"regex": "[a-c]{3,6}"}, {"choice": ["a long one to write", "b"]}])
def test_they_are_those_of_a_full_forward(constraint: dict[str, str] | None, keep_logprobs: bool) -> None:
    made = llama()
    engine = Engine(made, EngineSettings(num_slots=4, keep_logprobs=keep_logprobs))
    sampling = replace(WARM, max_new_tokens=40)
    [done] = engine.complete([replace(PLAIN, constraint=constraint, sampling=sampling)])
    assert len(done.top) == len(done.token_ids)
    start = engine.intake.jobs([PLAIN])[0].prompt_ids
    logits_TV = full_logits(made.network, [*start, *done.token_ids])[len(start) - 1 : -1].log_softmax(-1)
    for entries, logits_V in zip(done.top, logits_TV, strict=True):
        best = logits_V.topk(4)
        assert [token for token, _ in entries] == best.indices.tolist()
        assert torch.allclose(torch.tensor([value for _, value in entries]), best.values, atol=1e-4)


def test_a_drawn_token_has_the_same_figure_there() -> None:
    engine = Engine(llama(), EngineSettings(num_slots=4))
    [done] = engine.complete([replace(PLAIN, sampling=replace(WARM, temperature=0.0, repetition_penalty=1.0))])
    for token, raw, entries in zip(done.token_ids, done.raw_logprobs, done.top, strict=True):
        assert entries[0] == (token, raw)


def test_neighbours_change_nothing_and_who_did_not_ask_gets_none() -> None:
    engine = Engine(llama(), EngineSettings(num_slots=16))
    [alone] = engine.complete([PLAIN])
    others = [replace(PLAIN, id=str(i), seed=i, top_logprobs=0) for i in range(9)]
    found = engine.complete([*others, PLAIN])
    assert found[-1] == alone
    assert all(not done.top for done in found[:-1])


@pytest.mark.parametrize("count", [-1, 21])
def test_more_than_can_be_had_is_refused(count: int) -> None:
    with pytest.raises(SettingsError, match=f"top_logprobs is {count}"):
        Engine(llama()).complete([replace(PLAIN, top_logprobs=count)])
