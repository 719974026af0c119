"""Packing of rollouts: the prompt of a group stands in a row once, and the group's continuations follow it.

Legend: T token of a row, N sampled token (what is trained), P token of a prompt.

With G rollouts of a prompt of P tokens, G - 1 times P tokens are saved of every forward and backward pass (Prefix
Grouper, arXiv 2506.05433). Positions of every continuation go on from the prompt's, and the first sampled token is
predicted from the prompt's last token, which all of them share. What comes after a rollout's last sampled token
predicts nothing, nor does that token itself, so neither is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rung.records.packing import best_fit
from rung.records.rollout import Rollout

__all__ = ["RolloutRow", "Segments", "pack_rollouts"]

Segments = tuple[int, tuple[int, ...]]
"""Tokens of a prompt that stands once, and of each of the continuations that follow it and see it."""


@dataclass(frozen=True)
class RolloutRow:
    """One row. `groups` lie one after another, sum to T, and have prompt length 0 where nothing is shared; `token_ids`
    and `positions` have T entries.

    `rollouts` are places in the list that was packed. Their sampled tokens follow each other in that order, `counts`
    of each: `sources` [N] are the places in the row that predict `targets` [N], `offsets` [N] where each target stands
    in its rollout's own `token_ids`.
    """

    rollouts: tuple[int, ...]
    groups: tuple[Segments, ...]
    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    counts: tuple[int, ...]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def shares(self) -> bool:
        """Whether a prompt stands here for more than one rollout."""
        return any(prompt for prompt, _ in self.groups)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the documents of a row that shares nothing."""
        return tuple(length for _, continuations in self.groups for length in continuations)


def pack_rollouts(rollouts: Sequence[Rollout], max_tokens: int, share: bool = True) -> tuple[RolloutRow, ...]:
    """The rollouts in rows of at most `max_tokens`, longest row first; one without a sampled token is in none.

    Rollouts of one group with the same prompt are kept together. A group that does not fit is split, each part with
    the prompt in front; a rollout that does not fit by itself gets a row of its own. `share` false: every rollout is
    a document with its own copy of the prompt.
    """
    lengths = [_own_length(rollout) for rollout in rollouts]
    units: list[list[int]] = []
    for members in _groups(rollouts, lengths, share):
        room = max(max_tokens - len(rollouts[members[0]].prompt_ids), 1)
        units += [[members[i] for i in part] for part in best_fit([lengths[i] for i in members], room)]
    sizes = [len(rollouts[unit[0]].prompt_ids) + sum(lengths[i] for i in unit) for unit in units]
    rows = [_row(rollouts, lengths, [units[u] for u in chosen]) for chosen in best_fit(sizes, max_tokens)]
    return tuple(sorted(rows, key=lambda row: -len(row.token_ids)))


def _own_length(rollout: Rollout) -> int:
    """Tokens after the prompt that are read: those before the last sampled one; -1 where none was sampled."""
    return next((at for at in range(len(rollout.sampled) - 1, -1, -1) if rollout.sampled[at]), -1)


def _groups(rollouts: Sequence[Rollout], lengths: Sequence[int], share: bool) -> list[list[int]]:
    """Places of the rollouts that may stand behind one prompt."""
    found: dict[object, list[int]] = {}
    for place, rollout in enumerate(rollouts):
        if lengths[place] >= 0:
            key = (rollout.group, rollout.prompt_ids) if share else place
            found.setdefault(key, []).append(place)
    return list(found.values())


def _row(rollouts: Sequence[Rollout], lengths: Sequence[int], units: Sequence[Sequence[int]]) -> RolloutRow:
    token_ids: list[NDArray[np.int64]] = []
    positions: list[NDArray[np.int64]] = []
    trained: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
    start = 0
    for unit in units:
        prompt_ids = np.asarray(rollouts[unit[0]].prompt_ids, np.int64)
        after = np.cumsum([0, *(lengths[i] for i in unit)]) + start + len(prompt_ids)
        token_ids += [prompt_ids, *(np.asarray(rollouts[i].token_ids[: lengths[i]], np.int64) for i in unit)]
        positions += [np.arange(len(prompt_ids)), *(np.arange(lengths[i]) + len(prompt_ids) for i in unit)]
        prompt_end = start + len(prompt_ids) - 1
        trained += [_trained(rollouts[i], int(begin), prompt_end) for i, begin in zip(unit, after, strict=False)]
        start = int(after[-1])
    sources, targets, offsets = (np.concatenate(parts) for parts in zip(*trained, strict=True))
    return RolloutRow(
        rollouts=tuple(i for unit in units for i in unit),
        groups=tuple(_segments(len(rollouts[unit[0]].prompt_ids), [lengths[i] for i in unit]) for unit in units),
        token_ids=np.concatenate(token_ids),
        positions=np.concatenate(positions),
        counts=tuple(len(part) for part, _, _ in trained),
        sources=sources,
        targets=targets,
        offsets=offsets,
    )


def _trained(
    rollout: Rollout, begin: int, prompt_end: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(sources, targets, offsets) of a rollout whose own tokens begin at `begin` of the row."""
    offsets = np.flatnonzero(np.asarray(rollout.sampled, bool))
    sources = np.where(offsets == 0, prompt_end, begin + offsets - 1)
    return sources, np.asarray(rollout.token_ids, np.int64)[offsets], offsets


def _segments(num_prompt: int, lengths: Sequence[int]) -> Segments:
    """A prompt with one continuation is one document."""
    return (num_prompt, tuple(lengths)) if len(lengths) > 1 else (0, (num_prompt + lengths[0],))
