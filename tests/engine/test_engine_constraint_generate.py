"""The engine under constraints: what a random model writes obeys them, limits included, and neighbours keep theirs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import torch
from tests.engine.engine_models import END, START, full_logits, llama, wrapped

from rung.base.errors import ModelError, SettingsError
from rung.engine.engine import Engine
from rung.engine.sampling.draw import DrawSettings, draw
from rung.engine.settings import EngineSettings
from rung.records.contracts import Completion, Request, Sampling

WARM = Sampling(temperature=5.0, top_p=0.98, max_new_tokens=24)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "n": {"type": "array", "items": {"type": "integer"}}},
    "required": ["a", "n"],
}
ARRAY = {"gbnf": 'root ::= "[" (value ("," value)*)? "]"\nvalue ::= root | [0-9] | "null"'}


def ask(spec: dict[str, Any] | None, count: int, sampling: Sampling = WARM) -> list[Request]:
    return [Request(str(i), sampling, seed=i, text=f"say {i}", constraint=spec) for i in range(count)]


def valid(spec: dict[str, Any], text: str) -> bool:
    """An independent check."""
    if "regex" in spec:
        return re.fullmatch(spec["regex"], text) is not None
    if "choice" in spec:
        return text in spec["choice"]
    value = json.loads(text)
    if "json_schema" in spec:
        jsonschema.validate(value, spec["json_schema"])
    return isinstance(value, list) or spec != ARRAY


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(llama(), EngineSettings(num_slots=16))


@pytest.mark.parametrize(
    "spec",
    [{"json": True}, {"json_schema": SCHEMA}, ARRAY, {"regex": "[a-c]+(x|yz)+"}, {"choice": ["yes", "no", "not so"]}],
    ids=lambda spec: next(iter(spec)),
)
def test_every_text_of_a_random_model_is_valid_at_every_limit(engine: Engine, spec: dict[str, Any]) -> None:
    least = smallest(engine, spec)
    how = [replace(WARM, max_new_tokens=least + i % 12, temperature=(5.0, 0.0)[i % 4 == 3]) for i in range(24)]
    found = engine.complete([replace(r, sampling=s) for r, s in zip(ask(spec, 24), how, strict=True)])
    for done, sampling in zip(found, how, strict=True):
        assert valid(spec, done.text), (done.text, sampling)
        assert done.complete is True
        assert len(done.token_ids) <= sampling.max_new_tokens


def smallest(engine: Engine, spec: dict[str, Any]) -> int:
    """The budget that a refusal names, which suffices; 1 where nothing is refused."""
    try:
        engine.complete(ask(spec, 1, replace(WARM, max_new_tokens=1)))
    except SettingsError as error:
        return int(re.findall(r"\d+", error.hint)[0])
    return 1


def test_a_limit_that_is_too_small_is_refused_with_the_number_that_suffices(engine: Engine) -> None:
    before = engine.num_forwards
    with pytest.raises(SettingsError, match="max_new_tokens is 3") as caught:
        engine.complete(ask({"json_schema": SCHEMA}, 1, replace(WARM, max_new_tokens=3)))
    assert caught.value.hint == "set max_new_tokens to 18 or more"
    assert engine.num_forwards == before


def test_a_text_ends_with_its_grammar_and_says_when_the_limit_closed_it(engine: Engine) -> None:
    [roomy] = engine.complete(ask({"choice": ["ab"]}, 1, replace(WARM, max_new_tokens=5)))
    assert (roomy.text, roomy.finish_reason, roomy.complete, len(roomy.token_ids)) == ("ab", "stop", True, 2)
    [tight] = engine.complete(ask({"choice": ["ab"]}, 1, replace(WARM, max_new_tokens=2)))
    assert (tight.text, tight.finish_reason, tight.complete) == ("ab", "length", True)
    [open_end] = engine.complete(ask({"regex": "a+"}, 1, replace(WARM, max_new_tokens=1)))
    assert (open_end.text, open_end.finish_reason, open_end.complete) == ("a", "length", True)
    assert engine.complete(ask(None, 1))[0].complete is None


def test_end_tokens_are_drawn_where_the_text_is_complete_alone(engine: Engine) -> None:
    ends = [done for done in engine.complete(ask({"regex": "(ab)+"}, 24)) if done.finish_reason == "eos"]
    assert ends
    assert all(done.token_ids[-1] == END and done.text == done.raw_text.removesuffix("</s>") for done in ends)
    assert all(re.fullmatch("(ab)+", done.text) for done in ends)


@pytest.mark.parametrize("how", [{}, {"top_k": 3}, {"top_p": 0.6, "temperature": 1.0}, {"repetition_penalty": 1.3}])
def test_logprobs_are_of_the_masked_distribution_and_raw_ones_of_the_model(how: dict[str, Any]) -> None:
    made, spec = llama(), {"regex": "[abc]{2}[0-9a-z]{3}"}
    sampling = replace(WARM, **{"top_p": 1.0, "temperature": 2.0, **how})
    [done] = Engine(made).complete(ask(spec, 1, sampling))
    ids = [START, *made.tokenizer.encode("say 0")]
    logits_TV = full_logits(made.network, [*ids, *done.token_ids])[len(ids) - 1 : -1]
    state = Engine(made).intake.compiler.compile(spec, "a").start()
    for place, token in enumerate(done.token_ids):
        raw = logits_TV[place].log_softmax(-1)
        assert raw[token] == pytest.approx(done.raw_logprobs[place], abs=1e-4)
        assert -(raw.exp() * raw).sum() == pytest.approx(done.entropies[place], abs=1e-4)
        logits = logits_TV[place].clone()
        for seen in {*ids, *done.token_ids[:place]} if "repetition_penalty" in how else ():
            logits[seen] = logits[seen] / 1.3 if logits[seen] > 0 else logits[seen] * 1.3
        logits[~state.allowed(sampling.max_new_tokens - place)] = -torch.inf
        probability = kept((logits / sampling.temperature).softmax(-1), sampling)
        assert probability[token].log() == pytest.approx(done.logprobs[place], abs=1e-4)
        state.advance(token)


def kept(probability: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Top-k, then top-p, by a full sort."""
    value, order = probability.sort(descending=True)
    if sampling.top_k:
        value[sampling.top_k :] = 0
    value = value / value.sum()
    value[value.cumsum(0) - value >= sampling.top_p] = 0
    return torch.zeros_like(probability).scatter_(0, order, value / value.sum())


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
def test_free_neighbours_keep_their_bits_and_constrained_ones_do_not_depend_on_theirs(temperature: float) -> None:
    sampling = Sampling(temperature=temperature, top_p=0.9, max_new_tokens=12)
    engine = Engine(llama(), EngineSettings(num_slots=8))
    free, bound = ask(None, 6, sampling), ask({"json": True}, 6, sampling)
    bound = [replace(request, id=f"b{request.id}") for request in bound]
    mixed = [request for pair in zip(free, bound, strict=True) for request in pair]
    alone: list[Completion] = [*engine.complete(free), *engine.complete(bound)]
    assert {done.id: done for done in engine.complete(mixed)} == {done.id: done for done in alone}


def test_a_network_with_its_own_cache_obeys_too() -> None:
    fast, slow = Engine(llama()), Engine(wrapped())
    assert fast.capabilities().constraints
    assert slow.capabilities().constraints
    sampling = Sampling(max_new_tokens=9)
    pairs = zip(
        fast.complete(ask({"json": "array"}, 3, sampling)),
        slow.complete(ask({"json": "array"}, 3, sampling)),
        strict=True,
    )
    assert all(a.token_ids == b.token_ids and json.loads(a.text) is not None for a, b in pairs)


def test_stop_strings_with_a_constraint_are_refused(engine: Engine) -> None:
    with pytest.raises(SettingsError, match="stop strings"):
        engine.complete(ask({"json": True}, 1, replace(WARM, stop=("x",))))


def test_a_dead_end_raises_and_nothing_is_drawn(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    constraint = engine.intake.compiler.compile({"choice": ["abc"]}, "a")
    monkeypatch.setattr(type(constraint.start()), "shortest", lambda state: None)
    with pytest.raises(ModelError, match="no token fits the grammar"):
        engine.complete(ask({"choice": ["abc"]}, 1, replace(WARM, max_new_tokens=2)))


# -- the draw


@pytest.mark.parametrize("how", [{}, {"top_p": 0.999999}, {"top_k": 50}, {"top_p": 0.3}])
def test_a_logit_of_minus_infinity_is_never_drawn(how: dict[str, Any]) -> None:
    logits = torch.full((200, 1000), -torch.inf)
    logits[:, [3, 500, 999]] = torch.tensor([1.0, 0.5, -2.0])
    settings = DrawSettings(
        torch.ones(200), torch.full((200,), how.get("top_p", 1.0)), torch.full((200,), how.get("top_k", 0))
    )
    # a total that is too large leaves a gap below one, as rounding does; the last numbers fall into it
    uniform = torch.linspace(0, 1 - 1e-12, 200, dtype=torch.float64)
    found = draw(logits, logits.logsumexp(1) + 1e-5, settings, uniform, 16)
    assert set(found.token.tolist()) <= {3, 500, 999}
    assert bool(found.logprob.isfinite().all())
