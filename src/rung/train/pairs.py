"""Preference pairs as training rows: both responses of a pair side by side in one row, and what objectives see of them.

Legend: P pair, C document (one response with its prompt), N target.

A loss of a pair is not a sum over its tokens, so the two responses are never parted over micro-batches. Which tokens
count is the examples' loss mask and nothing else: a token that both responses share can be masked away and stays
visible as context.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rung.base.errors import DataError
from rung.base.seeds import derive
from rung.records.packing import Example, PackedRow, best_fit, pack

__all__ = [
    "PairExample",
    "PairLogprobs",
    "PairLoss",
    "PairObjective",
    "PairRow",
    "hold_out_pairs",
    "pack_pairs",
    "sums_of",
]


@dataclass(frozen=True, slots=True)
class PairExample:
    """Two rendered responses to one prompt; the examples' ids differ. `kind` is that of the preference pair."""

    id: str
    chosen: Example
    rejected: Example
    kind: str = ""

    @property
    def num_tokens(self) -> int:
        """Of both, prompts included."""
        return len(self.chosen.rendered.token_ids) + len(self.rejected.rendered.token_ids)


@dataclass(frozen=True)
class PairRow(PackedRow):
    """A row of whole pairs. `counts` [C] is how many targets each document has; `chosen` and `rejected` [P] are the
    pairs' documents; the `reference_` arrays [P] hold summed log-probabilities under the reference, zeros without one.
    """

    pair_ids: tuple[str, ...]
    counts: NDArray[np.int64]
    chosen: NDArray[np.int64]
    rejected: NDArray[np.int64]
    reference_chosen: NDArray[np.float32]
    reference_rejected: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """What an objective may look at, each [P]. Log-probabilities are natural, summed over a response's trained tokens;
    the counts say how many those are."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_counts: Tensor
    rejected_counts: Tensor

    @property
    def chosen_ratios(self) -> Tensor:
        """Log of policy over reference."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratios(self) -> Tensor:
        """Log of policy over reference."""
        return self.rejected - self.reference_rejected


@dataclass(frozen=True, slots=True)
class PairLoss:
    """Each pair's own loss (differentiable) and the implicit rewards behind it, each [P]."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


class PairObjective(Protocol):
    """A loss over pairs, a part of `rung.train.objectives`."""

    uses_reference: bool

    def pair_losses(self, pairs: PairLogprobs) -> PairLoss:
        """The loss of each pair; averaging over all pairs of a step is the caller's part."""


def pack_pairs(
    pairs: Sequence[PairExample], max_tokens: int, references: Mapping[str, tuple[float, float]] | None = None
) -> tuple[PairRow, ...]:
    """The pairs in as few rows of at most `max_tokens` as best fit finds, longest row first.

    `references` maps a pair's id to the reference's log-probabilities of its chosen and rejected response.
    """
    groups = best_fit([pair.num_tokens for pair in pairs], max_tokens)
    rows = [_row([pairs[i] for i in group], references) for group in groups]
    return tuple(sorted(rows, key=lambda row: -len(row.token_ids)))


def sums_of(logprobs_N: Tensor, row: PairRow) -> PairLogprobs:
    """The log-probabilities of a row's targets, summed by response and laid out by pair."""
    # A sum per document, not a scatter: on an accelerator a scatter adds in another order every time.
    sums_C = torch.stack([part.sum() for part in torch.split(logprobs_N, row.counts.tolist())])
    device = logprobs_N.device
    chosen, rejected, counts_C = (torch.from_numpy(x).to(device) for x in (row.chosen, row.rejected, row.counts))
    return PairLogprobs(
        chosen=sums_C[chosen],
        rejected=sums_C[rejected],
        reference_chosen=torch.from_numpy(row.reference_chosen).to(device),
        reference_rejected=torch.from_numpy(row.reference_rejected).to(device),
        chosen_counts=counts_C[chosen],
        rejected_counts=counts_C[rejected],
    )


def hold_out_pairs(
    pairs: Sequence[PairExample], fraction: float, seed: int
) -> tuple[tuple[PairExample, ...], tuple[PairExample, ...]]:
    """(training, held out) by prompt: pairs of one prompt share a response, so they stay on one side together.

    The prompts that hash lowest are held out until at least `fraction` of the pairs are; never all of them.
    """
    groups: dict[tuple[int, ...], list[PairExample]] = {}
    for pair in pairs:
        rendered = pair.chosen.rendered
        groups.setdefault(rendered.token_ids[: rendered.num_prompt_tokens], []).append(pair)
    ranked = sorted(groups, key=lambda prompt: (derive(seed, "held out", prompt), prompt))
    held: set[str] = set()
    for prompt in ranked[:-1]:
        if len(held) >= max(fraction * len(pairs), bool(fraction)):
            break
        held |= {pair.id for pair in groups[prompt]}
    return tuple(p for p in pairs if p.id not in held), tuple(p for p in pairs if p.id in held)


def _row(pairs: Sequence[PairExample], references: Mapping[str, tuple[float, float]] | None) -> PairRow:
    examples = [example for pair in pairs for example in (pair.chosen, pair.rejected)]
    packed = pack(examples, sum(pair.num_tokens for pair in pairs))[0]
    place = {name: number for number, name in enumerate(packed.ids)}
    if len(place) != len(examples):
        raise DataError("two responses of the pairs have the same id", place=pairs[0].id)
    starts = np.cumsum(packed.lengths) - np.asarray(packed.lengths)
    counts = np.add.reduceat(packed.loss_mask.astype(np.int64), starts)
    known = references or {}
    reference = np.asarray([known.get(pair.id, (0.0, 0.0)) for pair in pairs], np.float32)
    return PairRow(
        **{field.name: getattr(packed, field.name) for field in dataclasses.fields(PackedRow)},
        pair_ids=tuple(pair.id for pair in pairs),
        counts=counts,
        chosen=np.asarray([place[pair.chosen.id] for pair in pairs], np.int64),
        rejected=np.asarray([place[pair.rejected.id] for pair in pairs], np.int64),
        reference_chosen=reference[:, 0].copy(),
        reference_rejected=reference[:, 1].copy(),
    )
