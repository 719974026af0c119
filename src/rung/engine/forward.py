"""One call of a network's body, counted and checked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rung.base.errors import ModelError
from rung.models.network import Attend, Network

__all__ = ["Forward"]


class Forward:
    """Runs `network.hidden` on ids given as lists. `num_forwards` counts the calls."""

    def __init__(self, network: Network) -> None:
        self.network, self.num_forwards = network, 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.output_weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        return self.network.output_weight.dtype

    def hidden(self, token_ids: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], attend: Attend) -> Tensor:
        """Final hidden states [B, T, D].

        Raises:
            ModelError: they hold values that are not finite (broken weights, or a type too narrow for the model).
        """
        self.num_forwards += 1
        hidden_BTD = self.network.hidden(
            torch.tensor(token_ids, device=self.device), torch.tensor(positions, device=self.device), attend
        )
        return self.checked(hidden_BTD)

    @staticmethod
    def checked(hidden_BTD: Tensor) -> Tensor:
        """The same tensor, found finite; raises ModelError as `hidden` does."""
        if not bool(torch.isfinite(hidden_BTD).all()):
            raise ModelError(
                "the network's output is not finite", hint="check the weights, or load them in float32 or bfloat16"
            )
        return hidden_BTD
