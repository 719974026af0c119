"""The correction for a sampler that is not the trainer: weights, bounds, bypass, and what is measured."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rung.base.errors import DataError
from rung.base.lookup import part
from rung.train.importance import ImportanceSettings, correct_mismatch
from rung.train.policy import PolicyBatch

LOGS = [math.log(3), 0.0, -math.log(4), 0.25, 0.25]
"""log(old / rollout) of five tokens in two sequences (three and two)."""


def batch(**changes: object) -> PolicyBatch:
    old = torch.tensor([-1.0, -2.0, -0.5, -3.0, -0.1], dtype=torch.float64)
    logprobs = (old + torch.tensor([0.1, -0.2, 0.05, 0.3, -0.02])).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, 1.0, -2.0, -2.0], dtype=torch.float64)
    return replace(PolicyBatch(logprobs, old, advantages, (3, 2), reference_logprobs=old - 0.3), **changes)


def rollout() -> torch.Tensor:
    return batch().old_logprobs - torch.tensor(LOGS, dtype=torch.float64)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"level": "token", "high": 2.0}, [2.0, 1.0, 0.25, 1.2840254, 1.2840254]),
        ({"level": "token", "high": 2.0, "low": 0.5}, [2.0, 1.0, 0.5, 1.2840254, 1.2840254]),
        ({"level": "token", "outside": "mask", "high": 2.0, "low": 0.5}, [0.0, 1.0, 0.0, 1.2840254, 1.2840254]),
        ({"level": "sequence", "high": 1.5}, [0.75] * 3 + [1.5] * 2),
        ({"level": "sequence", "outside": "mask", "high": 1.5}, [0.75] * 3 + [0.0] * 2),
        ({"level": "sequence", "high": 10.0}, [0.75] * 3 + [math.exp(0.5)] * 2),
    ],
)
def test_weights_are_those_worked_out_by_hand(settings: dict[str, object], expected: list[float]) -> None:
    weighed, _ = correct_mismatch(batch(), rollout(), ImportanceSettings(**settings))
    assert weighed.weights is not None
    assert weighed.weights.tolist() == pytest.approx(expected, abs=1e-7)
    assert not weighed.weights.requires_grad


def test_what_is_measured() -> None:
    _, found = correct_mismatch(batch(), rollout(), ImportanceSettings(high=2.0, low=0.5))
    weights = [math.exp(log) for log in LOGS]
    assert found.mean_log == pytest.approx(sum(LOGS) / 5)
    assert found.max_log == pytest.approx(math.log(4))
    assert found.kl == pytest.approx(sum(w - 1 - log for w, log in zip(weights, LOGS, strict=True)) / 5)
    assert (found.mean_weight, found.max_weight) == pytest.approx((sum(weights) / 5, 3.0))
    assert found.chi_square == pytest.approx(sum(w * w for w in weights) / 5 - 1)
    assert found.bounded == pytest.approx(2 / 5)
    _, by_sequence = correct_mismatch(batch(), rollout(), ImportanceSettings(level="sequence", high=1.5))
    assert (by_sequence.mean_weight, by_sequence.bounded) == pytest.approx(((0.75 + math.exp(0.5)) / 2, 0.5))


def test_a_sequence_without_tokens_is_no_perfect_match() -> None:
    padded = batch(lengths=(3, 0, 2))
    settings = ImportanceSettings(level="sequence")
    assert correct_mismatch(padded, rollout(), settings)[1] == correct_mismatch(batch(), rollout(), settings)[1]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "gspo", "gmpo", "cispo", "sapo"])
def test_the_weight_multiplies_the_policy_term_alone(name: str) -> None:
    weights = torch.tensor([2.0, 0.0, 0.5, 1.5, 1.0], dtype=torch.float64, requires_grad=True)
    kind, with_kl = part("train.objectives", {"kind": name, "kl_coefficient": 0.7})
    without = with_kl.model_copy(update={"kl_coefficient": 0.0})
    plain, weighed = batch(), batch(weights=weights)
    terms = [kind(with_kl).policy_loss(b).total - kind(without).policy_loss(b).total for b in (plain, weighed)]
    torch.testing.assert_close(terms[0], terms[1])
    assert not torch.isclose(kind(without).policy_loss(plain).total, kind(without).policy_loss(weighed).total)
    kind(with_kl).policy_loss(weighed).total.backward()
    assert weights.grad is None
    masked = kind(without).policy_loss(batch(weights=torch.zeros(5, dtype=torch.float64)))
    assert float(masked.total.detach()) == 0.0


def test_masked_tokens_still_count_in_the_divisor() -> None:
    weighed, _ = correct_mismatch(batch(), rollout(), ImportanceSettings(outside="mask", low=0.5))
    assert weighed.lengths == (3, 2)
    assert len(weighed.logprobs) == 5


def test_the_bypass_takes_the_samplers_and_a_weight_on_top_is_refused() -> None:
    settings = ImportanceSettings(mode="bypass")
    bypassed, measured = correct_mismatch(batch(old_logprobs=torch.full((5,), -9.0)), rollout(), settings)
    torch.testing.assert_close(bypassed.old_logprobs, rollout())
    assert bypassed.weights is None
    assert measured.mean_log == pytest.approx(float((batch().logprobs.detach() - rollout()).mean()))
    with pytest.raises(DataError, match="already corrected"):
        correct_mismatch(bypassed, rollout(), ImportanceSettings())
    with pytest.raises(DataError, match="twice"):
        replace(bypassed, weights=torch.ones(5))
    weighed, _ = correct_mismatch(batch(), rollout(), ImportanceSettings())
    with pytest.raises(DataError, match="already corrected"):
        correct_mismatch(weighed, rollout(), ImportanceSettings())


def test_off_only_measures() -> None:
    untouched, measured = correct_mismatch(batch(), rollout(), ImportanceSettings(mode="off"))
    assert untouched.weights is None
    assert measured.max_weight == pytest.approx(3.0)


def test_rollout_logprobs_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match="shape"):
        correct_mismatch(batch(), rollout()[:4], ImportanceSettings())
    broken = rollout()
    broken[2] = math.nan
    with pytest.raises(DataError, match="finite"):
        correct_mismatch(batch(), broken, ImportanceSettings())


def test_weights_make_the_gradient_that_of_the_trainers_own_samples() -> None:
    """By enumeration: samples of a mismatched sampler, weighed, have the expected gradient of the trainer's samples."""
    torch.manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    sampler = torch.log_softmax(logits.detach() + 0.5 * torch.randn(6), 0)
    advantages = torch.randn(6, dtype=torch.float64)
    kind, own = part("train.objectives", "dapo")

    def expected_gradient(weigh: bool, drawn_with: torch.Tensor) -> torch.Tensor:
        gradients = []
        for token in range(6):
            logprobs = torch.log_softmax(logits, 0)[token : token + 1]
            one = PolicyBatch(logprobs, logprobs.detach(), advantages[token : token + 1], (1,))
            if weigh:
                one, _ = correct_mismatch(one, sampler[token : token + 1], ImportanceSettings(high=1000))
            gradients.append(torch.autograd.grad(kind(own).policy_loss(one).total, logits)[0])
        return (torch.stack(gradients) * drawn_with.exp()[:, None]).sum(0)

    own_samples = expected_gradient(False, torch.log_softmax(logits.detach(), 0))
    torch.testing.assert_close(expected_gradient(True, sampler), own_samples)
    assert not torch.allclose(expected_gradient(False, sampler), own_samples, atol=1e-2)
