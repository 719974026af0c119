"""A paused sequence outside the cache: what its slot held lies beside it, and the slot is free for others.

Legend: K key/value heads, T positions, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rung.engine.attend import Cache
from rung.engine.lane import Lane
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


def park(lane: Lane, cache: Cache, slot: int, network: Network) -> Parked:
    """Copy what `slot` holds of the lane, for `restore`."""
    keys, values = (
        tuple(layer[slot, :, : lane.position].clone() for layer in held) for held in (cache.keys, cache.values)
    )
    return Parked(lane, keys, values, network, _stamp(network))


def restore(parked: Parked, cache: Cache, slot: int) -> None:
    """Put it into `slot`, which has room for it: the same bits at the same positions."""
    for held, kept in ((cache.keys, parked.keys), (cache.values, parked.values)):
        for layer, part in zip(held, kept, strict=True):
            layer[slot, :, : part.shape[1]] = part


def _stamp(network: Network) -> _Stamp:
    """Where every weight lies and how often it was written to."""
    return tuple((p.data_ptr(), -1 if p.is_inference() else p._version) for p in network.parameters())
