"""Correction for a sampler that is not quite the policy that is trained, though both have the same weights.

Legend: N trained token, S sequence.

The sampler runs other kernels, another precision, perhaps a quantised copy; taking the trainer's log-probabilities for
those of the distribution really drawn from makes training off-policy without anyone noticing, and has wrecked runs.
The weight is old (trainer) over rollout (sampler), per token (low variance, biased) or per sequence (unbiased). It is
truncated (TIS; Yao et al., 2025, "Your efficient RL framework secretly brings you off-policy RL training") or what
lies outside the bounds gets weight 0 (IcePop, arXiv 2510.18855). Such tokens still count in the divisor: dropping them
there too would weigh the others up. The weight has no gradient and multiplies the policy term alone.

The bypass takes the sampler's log-probabilities as the old ones, which saves a forward pass; the ratio of the loss then
covers the mismatch, and a weight on top of it is refused.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from rung.base.errors import DataError
from rung.train.policy import PolicyBatch
from rung.train.rollout_settings import ImportanceSettings

__all__ = ["ImportanceSettings", "Mismatch", "correct_mismatch"]

MAX_LOG_WEIGHT = 20.0
"""Logarithms of weights are held within this before exponentiating, as verl does."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How far trainer and sampler are apart, over the trained tokens, before any bound.

    `mean_log` and `max_log` (largest absolute) are of the tokens' log(old / rollout); `kl` is KL(rollout || old) by the
    estimator k3; `mean_weight` and `chi_square` (mean squared weight - 1) are of the weights at the level that was set,
    and `bounded` is the share of those outside the bounds.
    """

    mean_log: float
    max_log: float
    kl: float
    mean_weight: float
    max_weight: float
    chi_square: float
    bounded: float


def correct_mismatch(
    batch: PolicyBatch, rollout_logprobs_N: Tensor, settings: ImportanceSettings
) -> tuple[PolicyBatch, Mismatch]:
    """The batch with its weights (or its old log-probabilities replaced, under the bypass), and what was measured.

    `rollout_logprobs_N` are of the distribution really sampled from and stand as the batch's tokens do. The trainer's
    must be of the same distribution: under the same temperature, top-p and mask. The bypass does not look at the
    batch's old log-probabilities; what it measures is the distance to the current ones, which before the first update
    are the same.

    Raises:
        DataError: the batch was corrected before, or a rollout log-probability is missing.
    """
    if batch.weights is not None or batch.bypass:
        raise DataError("the batch is already corrected for its sampler", place="policy batch")
    if rollout_logprobs_N.shape != batch.logprobs.shape:
        shapes = f"{tuple(rollout_logprobs_N.shape)}, tokens {tuple(batch.logprobs.shape)}"
        raise DataError(f"rollout log-probabilities have shape {shapes}", place="rollout_logprobs")
    rollout_N = rollout_logprobs_N.detach().to(batch.logprobs.dtype)
    if not bool(torch.isfinite(rollout_N).all()):
        raise DataError("a sampled token has no finite log-probability", place="rollout_logprobs")
    trainers_N = batch.logprobs if settings.mode == "bypass" else batch.old_logprobs
    logs_N = trainers_N.detach() - rollout_N
    logs_U = logs_N if settings.level == "token" else batch.means(logs_N) * _lengths(batch)
    weights_U = logs_U.clamp(-MAX_LOG_WEIGHT, MAX_LOG_WEIGHT).exp()
    bounded_U = _bounded(weights_U, settings)
    mismatch = _measure(logs_N, weights_U, _outside(weights_U, settings), _weight_counts(batch, settings))
    if settings.mode == "bypass":
        return dataclasses.replace(batch, old_logprobs=rollout_N, bypass=True), mismatch
    if settings.mode == "off":
        return batch, mismatch
    weights_N = bounded_U if settings.level == "token" else batch.spread(bounded_U)
    return dataclasses.replace(batch, weights=weights_N), mismatch


def _lengths(batch: PolicyBatch) -> Tensor:
    return batch.logprobs.new_tensor(batch.lengths)


def _weight_counts(batch: PolicyBatch, settings: ImportanceSettings) -> Tensor:
    """Which weights are measured: all, but not that of a sequence without trained tokens."""
    if settings.level == "sequence":
        return _lengths(batch) > 0
    return torch.ones_like(batch.old_logprobs, dtype=torch.bool)


def _outside(weights_U: Tensor, settings: ImportanceSettings) -> Tensor:
    below = 0.0 if settings.low is None else settings.low
    return (weights_U > settings.high) | (weights_U < below)


def _bounded(weights_U: Tensor, settings: ImportanceSettings) -> Tensor:
    if settings.outside == "mask":
        return weights_U.masked_fill(_outside(weights_U, settings), 0.0)
    return weights_U.clamp(min=settings.low, max=settings.high)


def _measure(logs_N: Tensor, weights_U: Tensor, outside_U: Tensor, counts_U: Tensor) -> Mismatch:
    if not len(logs_N):
        return Mismatch(0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)
    logs_N, weights_U = logs_N.double(), weights_U.double()[counts_U]
    return Mismatch(
        mean_log=float(logs_N.mean()),
        max_log=float(logs_N.abs().max()),
        kl=float((torch.expm1(logs_N) - logs_N).mean()),
        mean_weight=float(weights_U.mean()),
        max_weight=float(weights_U.max()),
        chi_square=float(weights_U.square().mean() - 1),
        bounded=float(outside_U[counts_U].double().mean()),
    )
