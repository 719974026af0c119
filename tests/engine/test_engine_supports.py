"""What the engine says could be drawn is what a sort of all logits leaves, and its log-probabilities are over that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.engine.engine_models import MODELS, Made, byte_tokenizer, wrapped

from rung.base.errors import SettingsError
from rung.engine.constraints.compiling import Compiler
from rung.engine.engine import Engine
from rung.engine.hosted.body import completion_body
from rung.engine.hosted.settings import HostedSettings
from rung.engine.settings import EngineSettings
from rung.models.families.llama import Llama
from rung.models.layers.attend import CausalAttend
from rung.records.contracts import Completion, Request, Sampling
from rung.records.rollout import Support


def flat() -> Made:
    """Logits that hardly differ: top-p 0.9 reaches beyond the candidates that are looked at first."""
    return Made(Llama.build(Llama.SIZES["tiny"]), byte_tokenizer())


MADE: dict[str, Any] = {**MODELS, "flat": flat, "wrapped": wrapped}
HOW: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "top-p": {"top_p": 0.9},
    "top-k": {"top_k": 7, "temperature": 0.7},
    "both": {"top_k": 40, "top_p": 0.6, "temperature": 1.3},
    "all of them": {"top_k": 300},
    "grammar": {"constraint": {"json": True}, "temperature": 0.7},
    "grammar and top-p": {"constraint": {"json": True}, "top_p": 0.9, "temperature": 0.7},
    "grammar and top-k": {"constraint": {"regex": "[a-z]{4,9}"}, "top_k": 3},
    "forced": {"constraint": {"regex": "(abcdefgh|[0-9]xyzzy)[a-f]*"}},
}


def answers(made: Made, num: int = 4, keep: bool = True, **how: Any) -> tuple[list[Request], list[Completion]]:
    constraint = how.pop("constraint", None)
    sampling = Sampling(**{"temperature": 1.0, "max_new_tokens": 20, **how})
    requests = [
        Request(str(i), sampling, seed=i, text="ab" * i + "c", constraint=constraint, keep_supports=keep)
        for i in range(num)
    ]
    return requests, Engine(made, EngineSettings(num_slots=4)).complete(requests)


@torch.no_grad()
def logits_of(made: Made, prompt_ids: list[int], token_ids: list[int]) -> torch.Tensor:
    """Before every drawn token, of the sequence alone and whole, float64."""
    ids = torch.tensor([[*prompt_ids, *token_ids]])
    hidden = made.network.hidden(ids, torch.arange(ids.shape[1])[None], CausalAttend())[0, len(prompt_ids) - 1 : -1]
    logits = hidden @ made.network.output_weight.T
    cap = made.network.softcap
    return (cap * torch.tanh(logits / cap) if cap else logits).double()


def left(logits: torch.Tensor, allowed: np.ndarray, sampling: Sampling) -> np.ndarray:
    """By the definition: mask, temperature, the k likeliest, then the likeliest until their mass reaches p."""
    tempered = (logits / sampling.temperature).masked_fill(~torch.from_numpy(allowed), -torch.inf)
    order = tempered.argsort(descending=True, stable=True)
    if sampling.top_k:
        tempered[order[sampling.top_k :]] = -torch.inf
    if sampling.top_p < 1:
        sorted_probabilities = tempered.softmax(0)[order]
        before = sorted_probabilities.cumsum(0) - sorted_probabilities
        tempered[order[before >= sampling.top_p]] = -torch.inf
    return (tempered > -torch.inf).numpy()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", MADE)
def test_supports_and_log_probabilities_are_those_of_all_logits(name: str, how: str) -> None:
    made = MADE[name]()
    size = made.network.shape.vocabulary
    compiler = Compiler(made.tokenizer, size)
    seen = set()
    for request, answer in zip(*answers(made, **HOW[how]), strict=True):
        prompt = [*made.tokenizer.start_ids, *made.tokenizer.encode_batch([request.text])[0]]
        logits = logits_of(made, prompt, list(answer.token_ids))
        state = compiler.compile(request.constraint, "test").start() if request.constraint else None
        assert len(answer.supports) == len(answer.token_ids)
        for at, (token, support) in enumerate(zip(answer.token_ids, answer.supports, strict=True)):
            allowed = np.ones(size, bool)
            if state is not None:
                allowed = state.allowed(request.sampling.max_new_tokens - at).numpy()
                if token not in made.tokenizer.end_ids:
                    state.advance(token)
            mask = np.ones(size, bool) if support is None else support.mask(size)
            seen.add(None if support is None else len(support))
            assert mask[token]
            expected = left(logits[at], allowed, request.sampling)
            if how == "forced" and len(support or ()) == 1:  # written ahead of the model: nothing was drawn
                assert answer.logprobs[at] == pytest.approx(0.0, abs=1e-6)
                continue
            assert np.array_equal(mask, expected)
            assert support is None or len(support) < size
            tempered = (logits[at] / request.sampling.temperature).masked_fill(~torch.from_numpy(mask), -torch.inf)
            assert answer.logprobs[at] == pytest.approx(float(tempered.log_softmax(0)[token]), abs=2e-5)
    if how in ("plain", "temperature", "all of them"):
        assert seen == {None}
    elif how == "top-p" and name == "flat":
        assert min(seen) > 256
    else:
        assert None not in seen


def test_keeping_supports_changes_no_draw_and_costs_nothing_unasked() -> None:
    for how in ("top-p", "grammar and top-p"):
        kept, plain = (answers(MODELS["llama"](), keep=keep, **HOW[how])[1] for keep in (True, False))
        assert [a.token_ids for a in kept] == [a.token_ids for a in plain]
        assert [a.logprobs for a in kept] == [a.logprobs for a in plain]
        assert all(a.supports == () for a in plain)


def test_a_greedy_token_was_the_only_one() -> None:
    for answer in answers(MODELS["llama"](), num=2, temperature=0.0)[1]:
        assert answer.supports == tuple(Support.of_ids([token], 300) for token in answer.token_ids)


def test_a_penalty_is_refused_with_supports_and_so_is_an_endpoint() -> None:
    with pytest.raises(SettingsError, match="repetition penalty"):
        answers(MODELS["llama"](), num=1, repetition_penalty=1.2)
    with pytest.raises(SettingsError, match="could be drawn"):
        completion_body(
            Request("a", Sampling(), text="x", keep_supports=True),
            HostedSettings(address="http://localhost:1", model="m"),
        )
