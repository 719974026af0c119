"""Answers and their labels as training rows, and what objectives of reward models see of them.

Legend: C answer (a document of a row), A attribute, P pair, K output of the head, U unit that counts, L value.

An answer is read at its last real token and nowhere else. That place follows from the lengths of the packed documents,
never from looking for an end or padding token, which may stand in the prompt too (and then the reward is read there).
A label that is missing is NaN in these rows and weighs nothing; it is never filled in. Examples are never parted over
micro-batches, because a pair needs both of its answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rung.base.errors import DataError
from rung.base.seeds import derive
from rung.records.packing import Example, PackedRow, best_fit, pack

__all__ = [
    "RewardData",
    "RewardExample",
    "RewardLabels",
    "RewardObjective",
    "RewardRow",
    "hold_out_groups",
    "labels_of",
    "pack_rewards",
]


@dataclass(frozen=True, slots=True)
class RewardExample:
    """One answer with a label per attribute (None: missing), or two answers of which the first is preferred.

    `group` is the prompt: examples of one group are trained or held out together. `strength` says how clear a
    preference is, in the labeller's points.
    """

    id: str
    group: str
    answers: tuple[Example, ...]
    labels: tuple[float | None, ...] = ()
    strength: float = 1.0

    @property
    def num_tokens(self) -> int:
        """Of all answers, prompts included."""
        return sum(len(answer.rendered.token_ids) for answer in self.answers)


@dataclass(frozen=True, slots=True)
class RewardData:
    """Examples, and the attributes that their labels are of, in order (empty for pairs)."""

    examples: tuple[RewardExample, ...]
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RewardRow(PackedRow):
    """A row of whole examples. `sources` [C] is each answer's last token; `labels` [C, A] holds NaN for missing ones;
    `chosen`, `rejected` and `strengths` [P] are the pairs' answers."""

    example_ids: tuple[str, ...]
    attributes: tuple[str, ...]
    labels: NDArray[np.float32]
    chosen: NDArray[np.int64]
    rejected: NDArray[np.int64]
    strengths: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RewardLabels:
    """What an objective may look at beside the head's outputs. `values` [C, A] (NaN: missing) are of `attributes`;
    `chosen`, `rejected` (numbers of answers) and `strengths` are [P]."""

    attributes: tuple[str, ...]
    values: Tensor
    chosen: Tensor
    rejected: Tensor
    strengths: Tensor


class RewardObjective(Protocol):
    """A loss over answers, a part of `rung.train.objectives`: pure, it holds nothing but its settings."""

    reads: Literal["pairs", "labels"]
    levels: tuple[float, ...]

    def num_outputs(self, num_attributes: int) -> int:
        """How many outputs the head must have."""

    def label_weights(self, labels: RewardLabels) -> Tensor:
        """How much each unit (a pair, or a label) counts, [U]; a missing label counts 0."""

    def answer_losses(self, outputs_CK: Tensor, labels: RewardLabels) -> Tensor:
        """The loss of each unit [U], finite for a missing label; averaging over a step is the caller's part."""

    def values(self, outputs_CK: Tensor) -> Tensor:
        """What the outputs say, [C, A, L]: L values of each attribute, one for each level, or one alone."""


def pack_rewards(data: RewardData, indices: Sequence[int], max_tokens: int) -> tuple[RewardRow, ...]:
    """The examples of these numbers in as few rows of at most `max_tokens` as best fit finds, longest row first."""
    chosen = [data.examples[i] for i in indices]
    groups = best_fit([example.num_tokens for example in chosen], max_tokens)
    rows = [_row([chosen[i] for i in group], data.attributes) for group in groups]
    return tuple(sorted(rows, key=lambda row: -len(row.token_ids)))


def labels_of(row: RewardRow, device: torch.device | None = None) -> RewardLabels:
    """The row's labels as tensors."""
    arrays = (row.labels, row.chosen, row.rejected, row.strengths)
    return RewardLabels(row.attributes, *(torch.from_numpy(array).to(device) for array in arrays))


def hold_out_groups(data: RewardData, fraction: float, seed: int) -> tuple[RewardData, RewardData]:
    """(training, held out) by group: the groups that hash lowest are held out until at least `fraction` of the examples
    are; never all of them."""
    sizes: dict[str, int] = {}
    for example in data.examples:
        sizes[example.group] = sizes.get(example.group, 0) + 1
    held: set[str] = set()
    for group in sorted(sizes, key=lambda name: (derive(seed, "held out", name), name))[:-1]:
        if sum(sizes[name] for name in held) >= max(fraction * len(data.examples), bool(fraction)):
            break
        held.add(group)
    kept = tuple(e for e in data.examples if e.group not in held)
    return RewardData(kept, data.attributes), RewardData(
        tuple(e for e in data.examples if e.group in held), data.attributes
    )


def _row(examples: Sequence[RewardExample], attributes: tuple[str, ...]) -> RewardRow:
    answers = [answer for example in examples for answer in example.answers]
    packed = pack(answers, sum(example.num_tokens for example in examples))[0]
    place = {name: number for number, name in enumerate(packed.ids)}
    if len(place) != len(answers):
        raise DataError("two answers have the same id", place=examples[0].id)
    labels = np.full((len(answers), len(attributes)), np.nan, np.float32)
    for example in examples:
        if example.labels:
            labels[place[example.answers[0].id]] = [np.nan if v is None else v for v in example.labels]
    ends = np.cumsum(np.asarray(packed.lengths, np.int64)) - 1
    pairs = [example for example in examples if len(example.answers) == 2]
    values = {field.name: getattr(packed, field.name) for field in dataclasses.fields(PackedRow)}
    # what is read of an answer stands where a target's source stands in other rows
    values |= {"sources": ends, "targets": packed.token_ids[ends], "target_counts": np.ones(len(ends), np.int64)}
    return RewardRow(
        **values,
        example_ids=tuple(example.id for example in examples),
        attributes=attributes,
        labels=labels,
        chosen=np.asarray([place[pair.answers[0].id] for pair in pairs], np.int64),
        rejected=np.asarray([place[pair.answers[1].id] for pair in pairs], np.int64),
        strengths=np.asarray([pair.strength for pair in pairs], np.float32),
    )
