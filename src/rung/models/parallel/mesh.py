"""From a layout to a mesh of real ranks: who shares weights, who reads which rows, who holds which tokens of a row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from rung.base.errors import SettingsError
from rung.models.parallel.circle import Circle, Timeline
from rung.models.parallel.layout import Layout

__all__ = ["Placement", "place"]


@dataclass(frozen=True, slots=True)
class Placement:
    """This rank's place. `weights` is the mesh [data, shard x context] over which weights are copied and split;
    `reader` of `num_readers` is which share of the rows it reads; `circle` are the ranks that read the same."""

    layout: Layout
    weights: DeviceMesh
    circle: Circle
    rank: int
    reader: int

    @property
    def num_readers(self) -> int:
        """How many shares the rows are dealt into."""
        return self.layout.data * self.layout.shard


def place(layout: Layout, device: torch.device) -> Placement:
    """This rank's place in the layout; every rank of the job calls it.

    Raises:
        SettingsError: the job has another number of ranks than the layout.
    """
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if ranks != layout.size:
        raise SettingsError(
            f"the layout needs {layout.size} ranks (data {layout.data} x shard {layout.shard} x context "
            f"{layout.context}), the job has {ranks}",
            place="training.devices",
            hint=f"torchrun --nproc-per-node {layout.size} -m rung run RECIPE, or rung run, which starts them",
        )
    shape, names = (layout.data, layout.shard, layout.context), ("data", "shard", "context")
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    weights = init_device_mesh(
        device.type, (layout.data, layout.shard * layout.context), mesh_dim_names=("data", "weights")
    )
    group = mesh["context"].get_group() if layout.context > 1 else None
    circle = Circle(group, Timeline() if layout.profile else None)
    return Placement(layout, weights, circle, dist.get_rank(), dist.get_rank() // layout.context)
