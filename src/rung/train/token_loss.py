"""The one loss of policy optimisation: ratio, gate and aggregation; the named objectives are points of this grid.

Legend: N trained token, S sequence.

The ratio of the current to the old policy is taken per token or per sequence (the geometric mean of its tokens', GSPO,
arXiv 2507.18071). The gate (`rung.train.gates`) decides which samples may still move the policy. The aggregation says
what counts the same: a token of the whole step (DAPO, arXiv 2503.14476), a sequence (GRPO, arXiv 2402.03300), or a
sequence over a constant length (Dr. GRPO, arXiv 2503.20783). Dividing is the caller's part: `weight` is summed over
micro-batches and ranks by `rung.train.normalise`, so k micro-batches on n ranks have the gradient of one batch.

With one update per rollout the value of the loss says nothing (it is near 0); its gradient does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
import torch
from torch import Tensor

from rung.base.errors import DataError, SettingsError
from rung.base.settings import Field, Settings
from rung.train.gates import Gate
from rung.train.policy import PolicyBatch, PolicyFigures, PolicyLoss

__all__ = ["KlSettings", "PolicyObjective", "TokenLoss", "kl_term"]

MAX_LOG_RATIO = 20.0
"""Log-ratios are held within this, as verl does: exp(20) is finite in every precision but says all there is to say."""
MAX_LOG_SEQUENCE_RATIO = 10.0
"""The same for a sequence's mean log-ratio, from above."""

_K1 = (
    "k1 inside the loss does nothing: its gradient has expectation zero, whatever the reference is. "
    "Use k2 or k3 here; k1 is for a penalty on the reward"
)


class KlSettings(Settings):
    """How the policy is held to the reference inside the loss."""

    kl_coefficient: float = Field(0.0, ge=0, le=100, description="weight of the KL to the reference; 0: no reference")
    kl_estimator: Literal["k1", "k2", "k3"] = Field("k3", description="k2 or k3; k1 is refused, it has no gradient")
    kl_weighted: bool = Field(
        True,
        description="weigh the estimate by the ratio to the sampler, which makes its gradient that of the KL; "
        "false: as first published, where k3 pulls along KL(reference || policy) instead",
    )

    @pydantic.model_validator(mode="after")
    def _acts(self) -> KlSettings:
        if self.kl_estimator == "k1":
            raise ValueError(_K1)
        return self


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """A point of the grid. `max_tokens` is the constant length that "constant" divides each sequence by."""

    ratio: Literal["token", "sequence"]
    gate: Gate
    aggregation: Literal["token", "sequence", "constant"]
    kl: KlSettings
    max_tokens: int = 0

    def weight(self, counts_S: Tensor) -> float:
        """What sequences of so many trained tokens add to the divisor; one without any adds nothing."""
        if self.aggregation == "token":
            return float(counts_S.sum())
        return float((counts_S > 0).sum()) * (self.max_tokens if self.aggregation == "constant" else 1)

    def __call__(self, batch: PolicyBatch) -> PolicyLoss:
        """See `PolicyObjective.policy_loss`."""
        log_ratios_N = (batch.logprobs - batch.old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        ratios_N = self._ratios(batch, self.gate.hold(log_ratios_N, batch.advantages))
        losses_N = -self.gate.surrogate(ratios_N, batch.logprobs, batch.advantages)
        if batch.weights is not None:
            losses_N = losses_N * batch.weights.detach()
        if self.kl.kl_coefficient:
            losses_N = losses_N + self.kl.kl_coefficient * self._kl(batch, log_ratios_N)
        return PolicyLoss(self._aggregate(batch, losses_N), self._figures(batch, log_ratios_N, ratios_N))

    def _ratios(self, batch: PolicyBatch, log_ratios_N: Tensor) -> Tensor:
        if self.ratio == "token":
            return log_ratios_N.exp()
        # The value is the sequence's, the gradient each token's own share of it once the sequence's mean is taken.
        mean_N = batch.spread(batch.means(log_ratios_N.detach()))
        return (mean_N + log_ratios_N - log_ratios_N.detach()).clamp(max=MAX_LOG_SEQUENCE_RATIO).exp()

    def _kl(self, batch: PolicyBatch, log_ratios_N: Tensor) -> Tensor:
        if batch.reference_logprobs is None:
            raise DataError(
                f"the KL coefficient is {self.kl.kl_coefficient:g} and there are no log-probabilities of a reference",
                place="reference_logprobs",
                hint="compute them with the adapter off or a frozen copy, or set kl_coefficient to 0",
            )
        ratios_N = log_ratios_N.exp() if self.kl.kl_weighted else None
        terms_N = kl_term(batch.logprobs, batch.reference_logprobs, self.kl.kl_estimator, ratios_N)
        return terms_N if batch.kl_mask is None else terms_N * batch.kl_mask

    def _aggregate(self, batch: PolicyBatch, losses_N: Tensor) -> Tensor:
        if self.aggregation == "sequence":
            return batch.means(losses_N).sum()
        longest = max(batch.lengths, default=0)
        if self.aggregation == "constant" and longest > self.max_tokens:
            raise SettingsError(
                f"a sequence has {longest} trained tokens, the constant that lengths are divided by is "
                f"{self.max_tokens}",
                place="max_tokens",
                hint="set it to the largest number of tokens that a rollout may generate",
            )
        return losses_N.sum()

    @torch.no_grad()
    def _figures(self, batch: PolicyBatch, log_ratios_N: Tensor, ratios_N: Tensor) -> PolicyFigures:
        low_N, high_N, capped_N = self.gate.clipped(log_ratios_N, ratios_N, batch.advantages)
        drift_N = kl_term(batch.old_logprobs, batch.logprobs, "k3")
        columns = [ratios_N, drift_N, low_N, high_N, capped_N]
        ratio, drift, *clipped = torch.stack([column.double().sum() for column in columns]).tolist()
        kl_N = None
        if batch.reference_logprobs is not None:
            kl_N = kl_term(batch.logprobs, batch.reference_logprobs, "k3")
        low, high, capped = map(round, clipped)
        return PolicyFigures(
            num_tokens=len(ratios_N),
            num_sequences=sum(length > 0 for length in batch.lengths),
            ratio_sum=ratio,
            ratio_max=float(ratios_N.max()) if len(ratios_N) else 0.0,
            drift_sum=drift,
            num_clipped_low=low,
            num_clipped_high=high,
            num_capped=capped,
            kl_sum=None if kl_N is None else float(kl_N.double().sum()),
            entropy_sum=None if batch.entropies is None else float(batch.entropies.double().sum()),
        )


class PolicyObjective(ABC):
    """A loss over sampled tokens, a part of `rung.train.objectives`: pure, it holds nothing but its settings."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.loss = self.point()

    @abstractmethod
    def point(self) -> TokenLoss:
        """Where in the grid the settings put it."""

    @property
    def uses_reference(self) -> bool:
        """Whether log-probabilities of a reference are needed."""
        return self.loss.kl.kl_coefficient > 0

    def weight(self, counts_S: Tensor) -> float:
        """What sequences of so many trained tokens each add to the divisor, known before any forward pass."""
        return self.loss.weight(counts_S)

    def policy_loss(self, batch: PolicyBatch) -> PolicyLoss:
        """The summed loss of a micro-batch, in the unit whose number is `weight`, and its figures.

        Raises:
            DataError: a reference is needed and the batch has none.
            SettingsError: a sequence is longer than the constant that its length is divided by.
        """
        return self.loss(batch)


def kl_term(
    logprobs_N: Tensor, reference_N: Tensor, estimator: Literal["k1", "k2", "k3"], ratios_N: Tensor | None = None
) -> Tensor:
    """An estimate of KL(policy || reference) per sampled token (Schulman, 2020, "Approximating KL divergence").

    With d = log reference - log policy: k2 = d^2 / 2, k3 = exp(d) - d - 1, neither ever negative. On samples of the
    policy the gradient of k2 is that of KL(policy || reference), that of k3 alone is that of KL(reference || policy).
    `ratios_N`, of the policy to the sampler, weighs samples that are another policy's and makes both right: k3 takes
    it with its gradient (DeepSeek-V3.2, arXiv 2512.02556), k2 without.

    Raises:
        SettingsError: k1 was asked for.
    """
    if estimator == "k1":
        raise SettingsError(_K1, place="kl_estimator")
    gap_N = (reference_N - logprobs_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k2":
        terms_N = gap_N.square() / 2
        return terms_N if ratios_N is None else terms_N * ratios_N.detach()
    # expm1: near 0 the terms of exp(d) - d - 1 cancel, and rounding would make the estimate negative
    terms_N = (torch.expm1(gap_N) - gap_N).clamp(min=0)
    return terms_N if ratios_N is None else terms_N * ratios_N
