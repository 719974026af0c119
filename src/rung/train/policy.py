"""Policy optimisation as a loss sees it: sampled tokens with all that it may look at, and the figures that it returns.

Legend: N trained token, S sequence, B row, T position.

Only tokens that the policy itself sampled are trained: prompts, tool outputs and padding are left out here, by mask,
before any arithmetic, so nothing that stands there (a NaN included) can reach the loss, the KL term or a metric.
Padded and packed layouts become the same batch. A sequence is never parted over micro-batches: ratios of whole
sequences need all of its tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rung.base.errors import DataError

__all__ = ["PolicyBatch", "PolicyFigures", "PolicyLoss", "merge_figures", "policy_batch"]


@dataclass(frozen=True, slots=True)
class PolicyBatch:
    """The trained tokens of a micro-batch, sequence after sequence, every tensor [N]; made by `policy_batch`.

    `lengths` says how many trained tokens each sequence has. Log-probabilities are natural and of one distribution:
    `old_logprobs` are the trainer's own before the first update on these samples, or with `bypass` the sampler's.
    `weights` are those of `rung.train.importance`; `kl_mask` is 0 where the KL term does not act.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    lengths: tuple[int, ...]
    reference_logprobs: Tensor | None = None
    weights: Tensor | None = None
    kl_mask: Tensor | None = None
    entropies: Tensor | None = None
    bypass: bool = False

    def __post_init__(self) -> None:
        if self.bypass and self.weights is not None:
            raise DataError(
                "the sampler's log-probabilities are the old ones and there are importance weights too",
                place="policy batch",
                hint="that corrects the same mismatch twice: use the bypass or the weights",
            )

    def means(self, values_N: Tensor) -> Tensor:
        """The mean over each sequence's tokens [S]; 0 for a sequence without any."""
        # A sum per sequence, not a scatter: on an accelerator a scatter adds in another order every time.
        sums_S = torch.stack([part.sum() for part in torch.split(values_N, list(self.lengths))])
        return sums_S / values_N.new_tensor(self.lengths).clamp(min=1)

    def spread(self, values_S: Tensor) -> Tensor:
        """Each token's own sequence's value [N]."""
        return values_S.repeat_interleave(torch.tensor(self.lengths, device=values_S.device))


@dataclass(frozen=True, slots=True)
class PolicyFigures:
    """What happened in a loss, as sums, so that micro-batches and ranks add up; the properties are means per token.

    `drift` is KL(old || current) and `kl` KL(current || reference), both by the estimator k3, which is never negative.
    Clipped means that the gate took the token's gradient away: low when the ratio had fallen far enough already, high
    when it had risen far enough, capped when a bad sample had become too likely for a bounded step.
    """

    num_tokens: int
    num_sequences: int
    ratio_sum: float
    ratio_max: float
    drift_sum: float
    num_clipped_low: int
    num_clipped_high: int
    num_capped: int
    kl_sum: float | None = None
    entropy_sum: float | None = None

    @property
    def ratio(self) -> float:
        """Mean ratio of the current to the old policy."""
        return self._mean(self.ratio_sum)

    @property
    def drift(self) -> float:
        """KL of the current policy from the old one, in nats."""
        return self._mean(self.drift_sum)

    @property
    def kl(self) -> float | None:
        """KL of the current policy from the reference, in nats; None without one."""
        return None if self.kl_sum is None else self._mean(self.kl_sum)

    @property
    def entropy(self) -> float | None:
        """Mean entropy of the next-token distribution, in nats; None where it was not measured."""
        return None if self.entropy_sum is None else self._mean(self.entropy_sum)

    @property
    def clipped_low(self) -> float:
        """Share of the tokens clipped from below."""
        return self._mean(self.num_clipped_low)

    @property
    def clipped_high(self) -> float:
        """Share of the tokens clipped from above."""
        return self._mean(self.num_clipped_high)

    @property
    def capped(self) -> float:
        """Share of the tokens whose step was bounded."""
        return self._mean(self.num_capped)

    def _mean(self, total: float) -> float:
        return total / self.num_tokens if self.num_tokens else 0.0


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """`total` is differentiable and still to be divided by the global sum of the objective's weights."""

    total: Tensor
    figures: PolicyFigures


def policy_batch(
    logprobs: Tensor,
    mask: Tensor,
    *,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequences: Tensor | None = None,
    reference_logprobs: Tensor | None = None,
    kl_mask: Tensor | None = None,
    entropies: Tensor | None = None,
) -> PolicyBatch:
    """The trained tokens of padded rows [B, T] or packed ones [T], each tensor of that one shape.

    `mask` is true where the policy sampled a token that counts. `sequences` holds each position's sequence; padded rows
    without it are a sequence each. Only `logprobs` keeps its gradient.

    Raises:
        DataError: shapes that differ, packed rows without `sequences`, or a trained token whose old log-probability,
            reference log-probability or advantage is not finite.
    """
    constants = {
        "old_logprobs": old_logprobs,
        "advantages": advantages,
        "reference_logprobs": reference_logprobs,
        "kl_mask": kl_mask,
        "entropies": entropies,
    }
    index = _sequence_index(logprobs, sequences)
    for name, tensor in {"mask": mask, "sequences": index, **constants}.items():
        if tensor is not None and tensor.shape != logprobs.shape:
            raise DataError(f"has shape {tuple(tensor.shape)}, log-probabilities {tuple(logprobs.shape)}", place=name)
    chosen_N = torch.nonzero(mask.reshape(-1)).squeeze(1)
    found_N = index.reshape(-1)[chosen_N]
    order_N = torch.argsort(found_N, stable=True)
    chosen_N = chosen_N[order_N]
    kept = {name: None if t is None else _take(t.detach(), chosen_N, name) for name, t in constants.items()}
    logprobs_N = _wide(logprobs.reshape(-1).index_select(0, chosen_N))
    return PolicyBatch(logprobs_N, lengths=tuple(torch.bincount(found_N, minlength=1).tolist()), **kept)  # type: ignore[arg-type]


def merge_figures(parts: Sequence[PolicyFigures]) -> PolicyFigures:
    """The figures of all micro-batches together; an optional one is there when every part has it."""
    merged: dict[str, Any] = {}
    for field in dataclasses.fields(PolicyFigures):
        values = [getattr(part, field.name) for part in parts]
        known = None if None in values else sum(values)
        merged[field.name] = max(values, default=0.0) if field.name == "ratio_max" else known
    return PolicyFigures(**merged)


def _sequence_index(logprobs: Tensor, sequences: Tensor | None) -> Tensor:
    if sequences is not None:
        return sequences
    if logprobs.dim() != 2:
        raise DataError("packed tokens need the sequence of each", place="sequences")
    return torch.arange(len(logprobs), device=logprobs.device)[:, None].expand(logprobs.shape)


def _take(tensor: Tensor, chosen_N: Tensor, name: str) -> Tensor:
    values_N = _wide(tensor.reshape(-1).index_select(0, chosen_N))
    bad = torch.nonzero(~torch.isfinite(values_N))
    if len(bad):
        place = f"{name}, position {int(chosen_N[bad[0, 0]])}"
        raise DataError(f"{float(values_N[bad[0, 0]])} on a trained token, {len(bad)} are not finite", place=place)
    return values_N


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: differences of bfloat16 log-probabilities are noise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
