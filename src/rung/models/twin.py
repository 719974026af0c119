"""A copy of a network in a narrower number type, for whoever only reads it while another one trains it.

Weights that are trained are held in float32, and a trainer's products round them to bfloat16 each time. A sampler that
reads the same weights rounded once samples from the same policy at the speed of bfloat16. The copy cannot be stale:
torch counts the writes to every tensor, and what was written is rounded again before it is read.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rung.base.errors import ModelError
from rung.models.network import Network

__all__ = ["Twin"]


class Twin:
    """`network` is the copy, its parameters in `dtype` and not trained; other modules' state is copied as it is.

    Args:
        original: whose weights are read. Parameters that are in `dtype` already are shared, not copied.
        dtype: of the copy's parameters.
    """

    def __init__(self, original: Network, dtype: torch.dtype) -> None:
        self._original = original
        narrow = {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in original.parameters()}
        self.network: Network = copy.deepcopy(original, dict[int, object](narrow)).eval()
        self._pairs = list(zip(_tensors(original), _tensors(self.network), strict=True))
        self._seen = [-1] * len(self._pairs)
        self.refresh()

    def refresh(self) -> int:
        """Round again what was written since; returns how many tensors that were.

        Raises:
            ModelError: the original has other tensors than when it was copied.
        """
        now = _tensors(self._original)
        if len(now) != len(self._pairs) or any(a is not b for a, (b, _) in zip(now, self._pairs, strict=True)):
            raise ModelError(
                "the network was changed after it was copied for sampling",
                hint="put adapters and heads on before the engine is made",
            )
        versions = [tensor._version for tensor in now]
        written = [
            pair for pair, version, seen in zip(self._pairs, versions, self._seen, strict=True) if version != seen
        ]
        apart = [(own, theirs) for own, theirs in written if own.data_ptr() != theirs.data_ptr()]
        with torch.no_grad():
            for own, theirs in apart:
                theirs.copy_(own)
        self._seen = versions
        return len(apart)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
