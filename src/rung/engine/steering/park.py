"""A paused sequence outside the cache: what its slot held lies beside it, and the slot is free for others.

Legend: K key/value heads, T positions, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rung.engine.lane import Lane
from rung.engine.store import Store
from rung.models.network import Network

__all__ = ["Parked", "park", "restore"]

_Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Parked:
    """The sequence, and per layer the keys and values [K, T, d] of the positions before its next token."""

    lane: Lane
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    network: Network
    stamp: _Stamp

    @property
    def num_bytes(self) -> int:
        """What is kept for it."""
        return sum(held.nbytes for held in (*self.keys, *self.values))

    @property
    def stale(self) -> bool:
        """Whether weights were written to since: keys and values are then those of another model. An adapter that is
        switched, not trained, goes unnoticed."""
        return self.stamp != _stamp(self.network)


def park(lane: Lane, store: Store, slot: int, network: Network) -> Parked:
    """Copy what the cache holds of the lane, its prompt's part and that of `slot`, for `restore`."""
    num_before, place = len(lane.prefix.ids), lane.prefix.slot
    keys, values = (
        tuple(
            torch.cat((*before[place : place + 1, :, :num_before], own[slot, :, : lane.num_own]), dim=1)
            for before, own in zip(prefixes, owns, strict=True)
        )
        for prefixes, owns in ((store.prefixes.keys, store.own.keys), (store.prefixes.values, store.own.values))
    )
    return Parked(lane, keys, values, network, _stamp(network))


def restore(parked: Parked, store: Store, slot: int) -> None:
    """Put it into `slot`, which has room for it, and its prompt's part where the lane's prefix lies: the same bits at
    the same positions, also for others who go on from that prompt."""
    num_before, place = len(parked.lane.prefix.ids), parked.lane.prefix.slot
    for prefixes, owns, kept in (
        (store.prefixes.keys, store.own.keys, parked.keys),
        (store.prefixes.values, store.own.values, parked.values),
    ):
        for before, own, part in zip(prefixes, owns, kept, strict=True):
            if num_before:
                before[place, :, :num_before] = part[:, :num_before]
            own[slot, :, : part.shape[1] - num_before] = part[:, num_before:]


def _stamp(network: Network) -> _Stamp:
    """Where every weight lies and how often it was written to."""
    return tuple((p.data_ptr(), -1 if p.is_inference() else p._version) for p in network.parameters())
