"""Packing: rendered examples laid side by side in rows without padding, and the order in which they are trained.

Legend: T token of a row, N target (a token the loss falls on).

Nothing is lost and nothing is guessed: every example lands in exactly one row of its step, its positions restart at 0,
and the order of the data is a pure function of (seed, step), so that a resumed run needs only the step's number.
Best-fit decreasing packing: Johnson et al., 1974, "Worst-case performance bounds for simple one-dimensional packing".
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rung.base.errors import DataError
from rung.base.seeds import derive, stream
from rung.records.chat.frame import Rendered

__all__ = [
    "DataReport",
    "Example",
    "PackedRow",
    "best_fit",
    "check_examples",
    "hold_out",
    "num_steps_per_epoch",
    "pack",
    "step_indices",
]


@dataclass(frozen=True, slots=True)
class Example:
    """A rendered training example with the id of the record that it came from."""

    id: str
    rendered: Rendered


@dataclass(frozen=True, slots=True)
class DataReport:
    """What is trained, counted: `num_targets` tokens carry loss of `num_tokens`; the ends of `truncated_ids` were cut;
    `num_with_end` examples train an end token (None when the tokenizer declares none)."""

    num_examples: int
    num_tokens: int
    num_targets: int
    truncated_ids: tuple[str, ...]
    num_with_end: int | None

    @property
    def num_truncated(self) -> int:
        """How many examples lost the end of their response."""
        return len(self.truncated_ids)


@dataclass(frozen=True)
class PackedRow:
    """One row of documents. `lengths` sum to T; `token_ids`, `positions` (restarting in each document) and
    `loss_mask` have T entries.

    `sources` [N] are places in the row whose hidden state predicts `targets` [N]; `target_counts` [N] is how many
    targets the document of each target has, for weightings by example. A source and its
    target are always in one document.
    """

    ids: tuple[str, ...]
    lengths: tuple[int, ...]
    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    target_counts: NDArray[np.int64]


def check_examples(
    examples: Sequence[Example], max_tokens: int, end_ids: Collection[int] = ()
) -> tuple[tuple[Example, ...], DataReport]:
    """Cut what is longer than `max_tokens` (its end goes, and is counted) and check every mask before it is trained on.

    Raises:
        DataError: no examples, an id twice, a mask of another length than its ids, an example without a trainable
            token, or end tokens declared by the tokenizer that no uncut example trains.
    """
    if not examples:
        raise DataError("there is nothing to train on", hint="the stage before this one kept no records")
    repeated = [name for name, count in Counter(e.id for e in examples).items() if count > 1]
    if repeated:
        raise DataError(f"record id '{repeated[0]}' is there more than once", place="training data")
    cut = tuple(_checked(example, max_tokens) for example in examples)
    whole = [e for e in cut if not e.rendered.truncated]
    num_with_end = sum(_trains_end(e, end_ids) for e in cut) if end_ids else None
    if num_with_end == 0 and whole:
        raise DataError(
            f"no example trains an end token (declared: {sorted(end_ids)}): the model would learn never to stop",
            place=whole[0].id,
            hint="render the examples with the model's own tokenizer so that its end token closes each response",
        )
    report = DataReport(
        num_examples=len(cut),
        num_tokens=sum(len(e.rendered.token_ids) for e in cut),
        num_targets=sum(_num_targets(e) for e in cut),
        truncated_ids=tuple(e.id for e in cut if e.rendered.truncated),
        num_with_end=num_with_end,
    )
    return cut, report


def best_fit(lengths: Sequence[int], max_tokens: int) -> tuple[tuple[int, ...], ...]:
    """Indices of `lengths` grouped into rows of at most `max_tokens`: longest first, each into the fullest row it fits.

    A length over `max_tokens` gets a row of its own. Ties are broken by index, so the answer is always the same one.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect.bisect_left(room, (lengths[index], -1))
        left, row = room.pop(place) if place < len(room) else (max_tokens, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        bisect.insort(room, (left - lengths[index], row))
    return tuple(tuple(row) for row in rows)


def pack(examples: Sequence[Example], max_tokens: int) -> tuple[PackedRow, ...]:
    """The examples in as few rows of at most `max_tokens` as best fit finds; longest row first, so that a step that
    does not fit into memory fails at once."""
    groups = best_fit([len(e.rendered.token_ids) for e in examples], max_tokens)
    rows = [_row([examples[i] for i in group]) for group in groups]
    return tuple(sorted(rows, key=lambda row: -len(row.token_ids)))


def num_steps_per_epoch(num_examples: int, sequences_per_step: int) -> int:
    """Optimizer steps that show every example once; the last may be smaller, nothing is dropped."""
    return -(-num_examples // sequences_per_step)


def step_indices(num_examples: int, sequences_per_step: int, seed: int, step: int) -> tuple[int, ...]:
    """Which examples step number `step` (from 0, over all epochs) trains on. Each epoch has its own seeded order."""
    epoch, within = divmod(step, num_steps_per_epoch(num_examples, sequences_per_step))
    order = list(range(num_examples))
    stream(seed, "data order", epoch).shuffle(order)
    return tuple(order[within * sequences_per_step : (within + 1) * sequences_per_step])


def hold_out(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(training, held out): the examples whose ids hash lowest are held out, at least one when `fraction` > 0.

    An example with the same tokens as a training example is trained, never held out: what was seen cannot validate.
    """
    ranked = sorted(examples, key=lambda e: (derive(seed, "held out", e.id), e.id))
    wanted = min(max(round(fraction * len(ranked)), 1), len(ranked) - 1) if fraction > 0 else 0
    chosen = {e.id for e in ranked[:wanted]}
    seen = {e.rendered.token_ids for e in examples if e.id not in chosen}
    held = tuple(e for e in examples if e.id in chosen and e.rendered.token_ids not in seen)
    held_ids = {e.id for e in held}
    return tuple(e for e in examples if e.id not in held_ids), held


def _checked(example: Example, max_tokens: int) -> Example:
    rendered = example.rendered
    if len(rendered.token_ids) != len(rendered.loss_mask):
        raise DataError(
            f"{len(rendered.token_ids)} tokens but {len(rendered.loss_mask)} mask entries", place=example.id
        )
    if len(rendered.token_ids) > max_tokens:
        rendered = dataclasses.replace(
            rendered,
            token_ids=rendered.token_ids[:max_tokens],
            loss_mask=rendered.loss_mask[:max_tokens],
            num_prompt_tokens=min(rendered.num_prompt_tokens, max_tokens),
            truncated=True,
        )
    if not any(rendered.loss_mask[1:]):
        reason = f"its response was cut off at {max_tokens} tokens" if rendered.truncated else "its mask is empty"
        raise DataError(
            f"no token of the example can be trained: {reason}",
            place=example.id,
            hint="raise max_tokens, or drop examples whose prompt fills it",
        )
    return dataclasses.replace(example, rendered=rendered)


def _num_targets(example: Example) -> int:
    """The first token has nothing before it to be predicted from, so it never counts."""
    return sum(example.rendered.loss_mask[1:])


def _trains_end(example: Example, end_ids: Collection[int]) -> bool:
    pairs = zip(example.rendered.token_ids[1:], example.rendered.loss_mask[1:], strict=True)
    return any(target and token in end_ids for token, target in pairs)


def _row(examples: Sequence[Example]) -> PackedRow:
    lengths = tuple(len(e.rendered.token_ids) for e in examples)
    token_ids = np.concatenate([np.asarray(e.rendered.token_ids, np.int64) for e in examples])
    positions = np.concatenate([np.arange(n, dtype=np.int64) for n in lengths])
    mask = np.concatenate([np.asarray(e.rendered.loss_mask, bool) for e in examples]) & (positions > 0)
    places = np.flatnonzero(mask)
    counts = np.asarray([_num_targets(e) for e in examples], np.int64)
    return PackedRow(
        ids=tuple(e.id for e in examples),
        lengths=lengths,
        token_ids=token_ids,
        positions=positions,
        loss_mask=mask,
        sources=places - 1,
        targets=token_ids[places],
        target_counts=np.repeat(counts, counts),
    )
