"""What ranks that train together agree on, and what they must not share: the draws of dropout."""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist
from torch import nn

from rung.base.errors import Interrupted
from rung.models.parallel.laid_out import placement_of
from rung.models.parallel.mesh import Placement

__all__ = ["agreed", "barrier", "is_first", "own_stream"]


def agreed(on_step: Callable[[int], None], placement: Placement | None) -> Callable[[int], None]:
    """`on_step` after which every rank raises if any does: the rank itself what it met, the others `Interrupted`."""
    return on_step if placement is None else _Agreed(on_step)


def own_stream(network: nn.Module) -> tuple[int, ...]:
    """What a rank adds to a seed so that no two draw the same; nothing on one device and on the first rank."""
    placement = placement_of(network)
    return (placement.rank,) if placement is not None and placement.rank else ()


def is_first() -> bool:
    """Whether this rank is the one that writes what all ranks hold."""
    return not _together() or dist.get_rank() == 0


def barrier() -> None:
    """Go on when every rank is here."""
    if _together():
        dist.barrier()


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


class _Agreed:
    def __init__(self, on_step: Callable[[int], None]) -> None:
        self._on_step = on_step

    def __call__(self, num_tokens: int) -> None:
        """Of one finished step."""
        met: BaseException | None = None
        try:
            self._on_step(num_tokens)
        except BaseException as error:  # noqa: BLE001 - raised again below, once the others know
            met = error
        stops: list[bool] = [False] * dist.get_world_size()
        dist.all_gather_object(stops, met is not None)
        if met is not None:
            raise met
        if any(stops):
            raise Interrupted(f"rank {stops.index(True)} stopped", place="training.devices")
