"""At equal weights the trainer's log-probabilities are the sampler's: the engine draws, the policy step compares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.engine.engine_models import MODELS, Made, byte_tokenizer, stirred

from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.families.gemma3 import Gemma3
from rung.records.contracts import Request, Sampling
from rung.records.rollout import Rollout
from rung.train.policy_step import rollout_logprobs

HOW: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "top-p": {"temperature": 0.7, "top_p": 0.9},
    "top-k": {"top_k": 5},
    "grammar": {"temperature": 0.7, "top_p": 0.9, "constraint": {"json": True}},
}


def gemma() -> Made:
    """Stirred less than elsewhere: a model sure of every token would have nothing to disagree about."""
    return Made(stirred(Gemma3.build(Gemma3.SIZES["tiny"]), amount=0.15), byte_tokenizer())


MADE: dict[str, Any] = {"llama": MODELS["llama"], "gemma": gemma}


def drawn(made: Made, num: int = 48, constraint: Any = None, **how: Any) -> list[Rollout]:
    sampling = Sampling(**{"temperature": 1.0, "max_new_tokens": 24, **how})
    prompt = made.tokenizer.start_ids + tuple(made.tokenizer.encode_batch(["a short prompt"])[0])
    requests = [
        Request(str(i), sampling, seed=i, token_ids=prompt, constraint=constraint, keep_supports=True)
        for i in range(num)
    ]
    return [
        Rollout(
            answer.id, number // 8, prompt, answer.token_ids, (True,) * len(answer.token_ids), answer.logprobs,
            sampling.temperature, answer.supports, answer.entropies, answer.hit_limit,
        )
        for number, answer in enumerate(Engine(made, EngineSettings(num_slots=8)).complete(requests))
    ]  # fmt: skip


def log_ratios(made: Made, rollouts: list[Rollout]) -> np.ndarray:
    told = rollout_logprobs(made.network, rollouts, precision="float32", tokens_per_micro_batch=400)
    return np.concatenate([np.subtract(own, r.logprobs) for own, r in zip(told, rollouts, strict=True)])


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", MADE)
def test_the_ratio_is_one_to_rounding_and_unbiased(name: str, how: str) -> None:
    made = MADE[name]()
    rollouts = drawn(made, **HOW[how])
    gaps = log_ratios(made, rollouts)
    assert sum(logprob < -1e-3 for rollout in rollouts for logprob in rollout.logprobs) > 50
    assert float(np.abs(gaps).max()) <= 1e-4
    assert abs(float(gaps.mean())) <= 1e-5


@pytest.mark.parametrize(("how", "at_least"), [("top-p", 0.05), ("top-k", 0.2), ("grammar", 0.5)])
def test_a_trainer_that_ignores_what_was_cut_off_is_biased(how: str, at_least: float) -> None:
    """The known failure of other trainers: at equal weights every token already looks less likely than it was drawn."""
    made = MODELS["llama"]()
    rollouts = drawn(made, **HOW[how])
    gaps = log_ratios(made, [replace(rollout, supports=()) for rollout in rollouts])
    assert float(gaps.max()) <= 1e-4
    assert float(gaps.mean()) < -at_least
    assert abs(float(log_ratios(made, rollouts).mean())) <= 1e-5


def test_a_trainer_that_ignores_the_temperature_is_off() -> None:
    made = MODELS["llama"]()
    gaps = log_ratios(made, [replace(rollout, temperature=1.0) for rollout in drawn(made, temperature=0.5)])
    assert float(np.abs(gaps).max()) > 0.5
