"""Which rows of a step a rank reads, and which of their tokens.

Every rank makes all rows of a step and takes its share: whole rows, dealt by their length, and of these, when the
network is laid over a ring, its own tokens. All ranks read equally many rows, for they compute in step; one that has
fewer reads one again, and that counts nothing.

Legend: T token of a row, N target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rung.base.errors import SettingsError
from rung.models.layers.attend import PackedAttend
from rung.models.network import Attend
from rung.models.parallel.cut import Cut
from rung.models.parallel.mesh import Placement
from rung.models.parallel.ring import RingAttend
from rung.records.packing import PackedRow

__all__ = ["RingRow", "attend_of", "own_rows"]


@dataclass(frozen=True)
class RingRow(PackedRow):
    """This rank's tokens of a row. `lengths` are those of the whole row; every other field is of these tokens alone.
    It may hold no target, or no token."""

    attend: RingAttend


def attend_of(row: PackedRow) -> Attend:
    """How a row's tokens see each other."""
    return row.attend if isinstance(row, RingRow) else PackedAttend([row.lengths])


def own_rows(rows: Sequence[PackedRow], placement: Placement | None) -> list[tuple[PackedRow, bool]]:
    """What this rank reads, and whether it counts.

    Raises:
        SettingsError: the rows are of pairs or labelled answers, whose losses need a whole row, and are to be cut.
    """
    if placement is None:
        return [(row, True) for row in rows]
    dealt = _dealt([len(row.token_ids) for row in rows], placement.num_readers)
    own = [(rows[index], True) for index in dealt[placement.reader]]
    again = [(rows[-1], False)] * (max(map(len, dealt)) - len(own))
    if placement.layout.context == 1:
        return [*own, *again]
    return [(_cut(row, placement), counts) for row, counts in (*own, *again)]


def _dealt(lengths: Sequence[int], num_readers: int) -> list[list[int]]:
    """Numbers of the rows by reader: longest first, each to the reader with the fewest tokens so far."""
    dealt: list[list[int]] = [[] for _ in range(num_readers)]
    load = [0] * num_readers
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        reader = load.index(min(load))
        dealt[reader].append(index)
        load[reader] += lengths[index]
    return dealt


def _cut(row: PackedRow, placement: Placement) -> RingRow:
    if type(row) is not PackedRow:
        raise SettingsError(
            "pairs and labelled answers cannot be cut over a ring: their losses need whole rows",
            place="training.devices.context",
            hint="use data or shard for them",
        )
    layout, circle = placement.layout, placement.circle
    cut = Cut(row.lengths, layout.context, layout.order, layout.query_block)
    places_T = np.asarray(cut.indices(circle.rank), np.int64)
    held_N = np.isin(row.sources, places_T)
    of_tokens = {name: getattr(row, name)[places_T] for name in ("token_ids", "positions", "loss_mask")}
    of_targets = {name: getattr(row, name)[held_N] for name in ("targets", "target_counts")}
    sources_N = np.searchsorted(places_T, row.sources[held_N])
    return RingRow(
        ids=row.ids, lengths=row.lengths, **of_tokens, sources=sources_N, **of_targets, attend=RingAttend(cut, circle)
    )
