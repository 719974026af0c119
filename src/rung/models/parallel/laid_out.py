"""Lays a network over ranks while it is trained, and afterwards makes it whole again; the network never knows.

What a single device does not need is loaded by name when there are several: torch's distribution takes long to import.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch.distributed as dist
from torch import Tensor, nn

from rung.base.errors import SettingsError, WorkerLost
from rung.base.lookup import lookup
from rung.models.layers.experts import SparseFeedForward
from rung.models.network import Network
from rung.models.parallel.layout import Layout
from rung.models.parallel.mesh import Placement, place

__all__ = ["is_split", "laid_out", "placement_of", "synchronising", "whole"]

_placements: WeakKeyDictionary[nn.Module, Placement] = WeakKeyDictionary()
_LOST = ("connection", "timed out", "timeout", "gloo", "nccl", "peer", "socket", "process group")


def placement_of(network: nn.Module) -> Placement | None:
    """This rank's place in the layout of a network; None when it is on one device."""
    return _placements.get(network)


def is_split(tensor: Tensor) -> bool:
    """Whether each rank holds a part of it."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A split tensor put together, on every rank, which all must call it; any other as it is."""
    together: Tensor = tensor.full_tensor() if is_split(tensor) else tensor  # type: ignore[attr-defined]
    return together


@contextlib.contextmanager
def laid_out(network: Network, layout: Layout) -> Iterator[Placement | None]:
    """The network over the layout's ranks, which all enter and leave this together; one rank changes nothing.

    Weights are split as they are when this is entered, and whole on every rank after a clean end; after an error they
    are left where they are.

    Raises:
        SettingsError: the job has another number of ranks, or experts of a limited capacity would see rows in parts.
        WorkerLost: a rank died or was silent for longer than the layout's timeout.
    """
    if layout.size == 1:
        yield None
        return
    if layout.context > 1 and any(isinstance(m, SparseFeedForward) and m.capacity_factor for m in network.modules()):
        raise SettingsError(
            "an expert's capacity is a share of the tokens of a row, and no rank of a ring has all of them",
            place="training.devices.context",
            hint="set context to 1 (data and shard read whole rows), or the network's capacity_factor to 0",
        )
    placement = place(layout, network.output_weight.device)
    with _loss_named(), lookup("models.parallel", "fsdp")(network, placement):
        _placements[network] = placement
        try:
            yield placement
        finally:
            del _placements[network]


@contextlib.contextmanager
def synchronising(network: nn.Module, last: bool) -> Iterator[None]:
    """Backward passes of one step: copies of the weights need their gradients averaged only in the `last`."""
    # Kept by `rung.models.parallel.fsdp` where every rank has whole weights.
    replica = network.__dict__.get("replica")
    with contextlib.nullcontext() if last or replica is None else replica.no_sync():
        yield


@contextlib.contextmanager
def _loss_named() -> Iterator[None]:
    """The failure of a transfer between ranks as its named ending; any other error passes."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).lower()
        if not isinstance(error, dist.DistError) and not any(word in said for word in _LOST):
            raise
        raise WorkerLost(
            f"a rank of the training is gone or silent: {str(error).splitlines()[0][:200]}",
            place="training.devices",
            hint="the same command goes on from the last checkpoint, on this or another number of ranks",
        ) from error
