"""The promise every architecture keeps, and the seam through which the engine and the trainer decide how tokens attend.

Legend: B batch, T token, D width, H query heads, K key/value heads, d head width, V vocabulary.

A network is written for one device and knows neither caches nor packing: its attention layers compute queries, keys
and values and hand them to an `Attend`. The engine passes one that reads a cache, the trainer one that isolates packed
documents, a ring one that moves blocks between devices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

__all__ = ["Attend", "Balance", "Network", "Shape", "Translation"]

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the engine and the trainer need to know of a network."""

    vocabulary: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    max_context: int


class Attend(Protocol):
    """How the tokens of a batch see each other."""

    def __call__(
        self, layer: int, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int
    ) -> Tensor:
        """Attention output [B, T, H, d]. Causal; `window` > 0: each token sees itself and the window-1 before it."""


class Balance(Protocol):
    """What a network owes a training step besides the losses of its targets: for experts, that all of them are used.

    Forward passes in training mode note what they owe. A step takes it after each forward, adds it to what it goes
    backward through, and when the weights have moved it settles what was noted of all of them.
    """

    def take_loss(self, counts: bool = True) -> Tensor:
        """The extra loss of the forwards since it was last taken, summed over the tokens that were read. Forwards that
        do not count (a rank that had nothing else to read) give zero and are forgotten."""

    def settle(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> Mapping[str, float]:
        """End a step: what is kept from one to the next is renewed, from the tokens of all ranks; figures by name."""

    def forget(self) -> None:
        """End a step that moved no weight: what was noted of it is gone, what is kept stays as it is."""

    @property
    def state(self) -> Mapping[str, Tensor]:
        """What is kept from one step to the next, by names that no parameter has; a checkpoint holds it."""


def _as_is(tensors: Tensors) -> Tensors:
    return tensors


@dataclass(frozen=True, slots=True)
class Translation:
    """How published files name and shape the parameters, where a prefix more or less is not all of it."""

    read: Callable[[Tensors], Tensors] = _as_is
    """Published tensors (renamed, none ignored left) to a network's own."""
    write: Callable[[Tensors], Tensors] = _as_is
    """A network's own tensors to published ones."""


class Network(nn.Module, ABC):
    """Base of all families. Parameter names are those of the published checkpoints; else `translation` goes both ways.

    `shape` describes it; `hidden` runs the body; `output_weight` and `softcap` let callers make logits in pieces
    (logits = hidden @ output_weight.T, then softcap * tanh(logits / softcap) when softcap > 0).
    """

    shape: Shape
    softcap: float = 0.0
    translation: ClassVar[Translation] = Translation()
    balance: Balance | None = None

    @abstractmethod
    def hidden(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Final hidden states [B, T, D], normalised, ready for the output projection."""

    @property
    @abstractmethod
    def output_weight(self) -> Tensor:
        """The output projection's weight [V, D] (the embedding's when tied)."""
