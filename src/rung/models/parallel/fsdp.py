"""Weights over ranks, from outside.

Split: FSDP2's `fully_shard`, layer by layer (Zhao et al. 2023, arXiv 2304.11277). Whole on every rank:
`DistributedDataParallel`. Either averages gradients over all ranks, those of a ring included; see
`rung.train.normalise.loss_divisor`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from rung.base.errors import SettingsError
from rung.models.network import Attend, Network
from rung.models.parallel.mesh import Placement
from rung.models.recompute import outer_layers

__all__ = ["over_ranks"]


def over_ranks(network: Network, placement: Placement) -> contextlib.AbstractContextManager[None]:
    """The network's weights as the layout wants them, and afterwards as they were; see `laid_out`.

    Raises:
        SettingsError: weights that are to be split are quantised.
    """
    return _split(network, placement) if placement.layout.shard > 1 else _copied(network)


class _Body(nn.Module):
    """What `DistributedDataParallel` wraps: a forward that is the network's `hidden`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Hidden states [B, T, D]."""
        return type(self.network).hidden(self.network, token_ids_BT, positions_BT, attend)


@contextlib.contextmanager
def _copied(network: Network) -> Iterator[None]:
    """Whole weights on every rank, those of rank 0 at first."""
    replica = DistributedDataParallel(_Body(network))
    # Among the object's attributes and not its modules: parameters keep their names.
    network.__dict__.update(hidden=replica.forward, replica=replica)
    try:
        yield
    finally:
        del network.__dict__["hidden"], network.__dict__["replica"]


@contextlib.contextmanager
def _split(network: Network, placement: Placement) -> Iterator[None]:
    """Each layer's weights over the ranks, gathered when it computes."""
    if not all(parameter.is_floating_point() for parameter in network.parameters()):
        raise SettingsError(
            "quantised weights cannot be split", place="training.devices.shard", hint="devices.data copies them"
        )
    # what goes on from one step to the next is one and the same in the copy that takes over in the end
    kept = [] if network.balance is None else network.balance.state.values()
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers(), *kept)}
    plain = copy.deepcopy(network, memo)
    mesh = placement.weights if placement.layout.data > 1 else placement.weights["weights"]
    for layer in outer_layers(network):
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    register_fsdp_forward_method(network, "hidden")
    for parameter in plain.parameters():
        parameter.data = parameter.data.new_empty(0)
    yield
    _gather(network, plain)


@torch.no_grad()
def _gather(network: Network, plain: Network) -> None:
    """The weights whole again in the network as it was before it was split."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    for parameter, split in zip(plain.parameters(), network.parameters(), strict=True):
        parameter.data = split.full_tensor() if isinstance(split, DTensor) else split.data
    network.__class__ = plain.__class__
    network.__dict__ = plain.__dict__
