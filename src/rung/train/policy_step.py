"""One update of a policy from what it sampled, and the log-probabilities that such an update is compared with.

Legend: B row, T token, D width, N trained token, S sequence.

Every log-probability here is of the distribution that was sampled from: under the rollout's temperature, among the
tokens of its supports. So trainer and sampler agree to rounding as long as their weights do, and the ratio of a first
update is 1. A prompt that a group shares is read once (`rung.records.group_packing`). Dropout is off: with it the
ratio would be another policy's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rung.base.errors import DataError, ModelError
from rung.models.families.fallback import Fallback
from rung.models.layers.attend import PackedAttend
from rung.models.layers.shared_attend import SharedPrefixAttend
from rung.models.network import Network
from rung.records.group_packing import RolloutRow, pack_rollouts
from rung.records.rollout import Rollout, Support
from rung.train.importance import ImportanceSettings, Mismatch, correct_mismatch
from rung.train.normalise import global_sum, global_weight, loss_divisor
from rung.train.output_loss import sampling_logprobs
from rung.train.policy import PolicyBatch, PolicyFigures, merge_figures, policy_batch
from rung.train.token_loss import PolicyObjective
from rung.train.update import Precision, in_precision, update_weights, without_dropout

__all__ = ["PolicyReport", "Sample", "policy_step", "rollout_logprobs"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A rollout with what training makes of it; every tuple has one entry per token of `rollout.token_ids`.

    A token is trained where it was sampled and `counts`; `kl` says where the KL term acts. `old_logprobs` None: the
    weights have not moved since it was sampled, so the current ones are the old ones.
    """

    rollout: Rollout
    advantages: tuple[float, ...]
    counts: tuple[bool, ...]
    kl: tuple[bool, ...]
    old_logprobs: tuple[float, ...] | None = None
    reference_logprobs: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("advantages", "counts", "kl", "old_logprobs", "reference_logprobs"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.rollout.token_ids):
                message = f"{len(self.rollout.token_ids)} tokens but {len(values)} {name}"
                raise DataError(message, place=f"sample of rollout '{self.rollout.id}'")

    def moves(self, with_kl: bool) -> bool:
        """Whether any of its tokens has a gradient: one that counts and has an advantage, or where the KL acts."""
        acts = (
            (a != 0 or (with_kl and kl)) and own
            for a, kl, own in zip(self.advantages, self.kl, self.counts, strict=True)
        )
        return any(acts)

    def trained(self) -> Rollout:
        """The rollout with only those tokens as sampled that are trained."""
        chosen = tuple(s and c for s, c in zip(self.rollout.sampled, self.counts, strict=True))
        return self.rollout if chosen == self.rollout.sampled else replace(self.rollout, sampled=chosen)


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """What an update did. `loss` is the objective in its own unit, before the update and over all ranks; `grad_norm` is
    the global 2-norm before clipping. Figures and mismatch are of this rank's `num_trained` tokens, among the
    `num_tokens` that were read; the mismatch is between trainer and sampler (None: not measured)."""

    loss: float
    grad_norm: float
    figures: PolicyFigures
    mismatch: Mismatch | None
    num_tokens: int
    num_trained: int
    seconds: float


def policy_step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Sample],
    objective: PolicyObjective,
    *,
    learning_rate: float,
    clip: float,
    precision: Precision = "float32",
    tokens_per_micro_batch: int = 4096,
    importance: ImportanceSettings | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
) -> PolicyReport:
    """Forward and backward over the samples, `tokens_per_micro_batch` at a time, then one update.

    The divisor is the global weight of all samples, known before the first forward pass, so the gradient does not
    depend on how they were split. Samples that move nothing (a group of equal rewards, and no KL) count there and are
    not read. `importance` None: the sampler's log-probabilities are not looked at.
    `on_chunk(done, all)` follows every micro-batch.

    Raises:
        ModelError: the loss or the gradient is not finite; the weights are left as they were.
        DataError: no token is trained, or some samples have log-probabilities of a reference and others none.
    """
    start = time.perf_counter()
    counts_S = torch.tensor([sample.trained().num_sampled for sample in samples])
    samples = [sample for sample in samples if sample.moves(objective.uses_reference)]
    rollouts = [sample.trained() for sample in samples]
    rows = pack_rollouts(rollouts, tokens_per_micro_batch, _can_share(network))
    device = network.output_weight.device
    total = global_weight([objective.weight(counts_S)], device)
    divisor, losses, parts = loss_divisor(total), [], []
    optimizer.zero_grad(set_to_none=True)
    try:
        with without_dropout(network):
            for done, row in enumerate(rows, 1):
                batch = _batch(_logprobs(network, rollouts, row, precision), samples, row)
                batch, mismatch = _corrected(batch, rollouts, row, importance)
                loss = objective.policy_loss(batch)
                (loss.total / divisor).backward()  # type: ignore[no-untyped-call]
                losses.append(float(loss.total.detach()))
                parts.append((loss.figures, mismatch))
                if on_chunk is not None:
                    on_chunk(done, len(rows))
        mean = global_sum(losses, device) / total
        norm = update_weights(optimizer, mean, learning_rate=learning_rate, clip=clip)
    finally:
        optimizer.zero_grad(set_to_none=True)
    return PolicyReport(
        loss=mean,
        grad_norm=norm,
        figures=merge_figures([figures for figures, _ in parts]),
        mismatch=_merged(parts, importance),
        num_tokens=sum(len(row.token_ids) for row in rows),
        num_trained=sum(len(row.targets) for row in rows),
        seconds=time.perf_counter() - start,
    )


@torch.no_grad()
def rollout_logprobs(
    network: Network,
    rollouts: Sequence[Rollout],
    *,
    precision: Precision = "float32",
    tokens_per_micro_batch: int = 4096,
) -> list[tuple[float, ...]]:
    """What the network says of every sampled token (nats; 0.0 where one was inserted), dropout off, nothing changed.

    Of the weights as they are: for old log-probabilities call it before the first update, for a reference's with the
    adapter off or on a frozen copy.
    """
    found = [[0.0] * len(rollout.token_ids) for rollout in rollouts]
    with without_dropout(network):
        for row in pack_rollouts(rollouts, tokens_per_micro_batch, _can_share(network)):
            values = iter(_logprobs(network, rollouts, row, precision).tolist())
            for place, offsets in _by_rollout(row):
                for offset in offsets.tolist():
                    found[place][offset] = next(values)
    return [tuple(values) for values in found]


def _can_share(network: Network) -> bool:
    """A wrapped model attends in its own way, to whole documents."""
    return not isinstance(network, Fallback)


def _logprobs(network: Network, rollouts: Sequence[Rollout], row: RolloutRow, precision: Precision) -> Tensor:
    """Of the row's sampled tokens [N], differentiable."""
    device = network.output_weight.device
    token_ids_BT, positions_BT = (torch.from_numpy(x).to(device)[None] for x in (row.token_ids, row.positions))
    attend = SharedPrefixAttend(row.groups) if row.shares else PackedAttend([row.lengths])
    with in_precision(device, precision):
        hidden_BTD = network.hidden(token_ids_BT, positions_BT, attend)
        logprobs_N = sampling_logprobs(
            hidden_BTD[0].index_select(0, torch.from_numpy(row.sources).to(device)),
            network.output_weight,
            torch.from_numpy(row.targets).to(device),
            softcap=network.softcap,
            inverse_temperature=_inverse_temperatures(rollouts, row),
            supports=_supports(rollouts, row),
        )
    if not bool(torch.isfinite(logprobs_N).all()):
        raise ModelError(
            "a sampled token's log-probability is not finite: training diverged",
            hint="lower the learning rate or look at the records of this step",
        )
    return logprobs_N


def _inverse_temperatures(rollouts: Sequence[Rollout], row: RolloutRow) -> float | Tensor:
    found = [1.0 / rollouts[place].temperature for place in row.rollouts]
    return found[0] if len(set(found)) == 1 else torch.tensor(found).repeat_interleave(torch.tensor(row.counts))


def _supports(rollouts: Sequence[Rollout], row: RolloutRow) -> tuple[Support | None, ...]:
    if not any(rollouts[place].supports for place in row.rollouts):
        return ()
    found: list[Support | None] = []
    for place, offsets in _by_rollout(row):
        supports = rollouts[place].supports
        found += [supports[offset] if supports else None for offset in offsets.tolist()]
    return tuple(found)


def _batch(logprobs_N: Tensor, samples: Sequence[Sample], row: RolloutRow) -> PolicyBatch:
    """The row's trained tokens, rollout after rollout."""
    if len({sample.reference_logprobs is None for sample in samples}) > 1:
        raise DataError("some samples have log-probabilities of a reference and others none", place="policy step")
    counts_S = torch.tensor(row.counts, device=logprobs_N.device)

    def column(values: Sequence[Sequence[float] | None]) -> Tensor | None:
        """Of the row's trained tokens [N], from one sequence per sample; None where any is missing."""
        return _column(row, values, logprobs_N)

    advantages_N = column([sample.advantages for sample in samples])
    assert advantages_N is not None
    return policy_batch(
        logprobs_N,
        torch.ones_like(logprobs_N, dtype=torch.bool),
        old_logprobs=_old(row, samples, logprobs_N.detach()),
        advantages=advantages_N,
        sequences=torch.arange(len(counts_S), device=logprobs_N.device).repeat_interleave(counts_S),
        reference_logprobs=column([sample.reference_logprobs for sample in samples]),
        kl_mask=column([sample.kl for sample in samples]),
        entropies=column([sample.rollout.entropies or None for sample in samples]),
    )


def _old(row: RolloutRow, samples: Sequence[Sample], current_N: Tensor) -> Tensor:
    """What the samples say, and the current log-probabilities where one says that they are the old ones."""
    own = torch.split(current_N, list(row.counts))
    pieces = []
    for (place, offsets), current in zip(_by_rollout(row), own, strict=True):
        old = samples[place].old_logprobs
        pieces.append(current if old is None else current.new_tensor(np.asarray(old)[offsets]))
    return torch.cat(pieces)


def _corrected(
    batch: PolicyBatch, rollouts: Sequence[Rollout], row: RolloutRow, importance: ImportanceSettings | None
) -> tuple[PolicyBatch, Mismatch | None]:
    if importance is None:
        return batch, None
    sampler_N = _column(row, [rollout.logprobs for rollout in rollouts], batch.logprobs)
    assert sampler_N is not None
    return correct_mismatch(batch, sampler_N, importance)


def _merged(
    parts: Sequence[tuple[PolicyFigures, Mismatch | None]], importance: ImportanceSettings | None
) -> Mismatch | None:
    """The mismatch over all micro-batches; means of tokens are weighed by tokens, those of weights by weights."""
    found = [(figures, mismatch) for figures, mismatch in parts if mismatch is not None]
    if importance is None or not found:
        return None
    by_token = np.array([figures.num_tokens for figures, _ in found], np.float64)
    by_sequence = np.array([figures.num_sequences for figures, _ in found], np.float64)
    by_weight = by_token if importance.level == "token" else by_sequence

    def column(name: str) -> NDArray[np.float64]:
        """One figure of every micro-batch."""
        return np.array([getattr(mismatch, name) for _, mismatch in found], np.float64)

    return Mismatch(
        mean_log=float(np.average(column("mean_log"), weights=by_token)),
        max_log=float(column("max_log").max()),
        kl=float(np.average(column("kl"), weights=by_token)),
        mean_weight=float(np.average(column("mean_weight"), weights=by_weight)),
        max_weight=float(column("max_weight").max()),
        chi_square=float(np.average(column("chi_square"), weights=by_weight)),
        bounded=float(np.average(column("bounded"), weights=by_weight)),
    )


def _column(row: RolloutRow, columns: Sequence[Sequence[float] | None], like_N: Tensor) -> Tensor | None:
    """Of the row's sampled tokens [N], from one sequence per rollout; None where any of the row's is missing."""
    pieces = []
    for place, offsets in _by_rollout(row):
        values = columns[place]
        if values is None:
            return None
        pieces.append(np.asarray(values, np.float64)[offsets])
    return torch.from_numpy(np.concatenate(pieces)).to(like_N)


def _by_rollout(row: RolloutRow) -> list[tuple[int, NDArray[np.int64]]]:
    """(place of the rollout, where its sampled tokens stand in it) for each of the row's."""
    ends = np.cumsum(row.counts)
    parts = zip(ends - np.asarray(row.counts), ends, strict=True)
    return [(place, row.offsets[a:b]) for place, (a, b) in zip(row.rollouts, parts, strict=True)]
