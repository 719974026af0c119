"""What a training step holds in memory, by part of the network, measured on the network itself.

Weights, gradients and the optimizer's state are counted from what they are; the state by letting the optimizer take a
step on tensors without contents. What a row's forward pass keeps for its backward pass is counted as torch saves it,
each storage once, for the module that saved it first; what stands outside all known modules is the residual stream's.
Rows of one document and of two tell what every row keeps (`fixed`: weights in another precision, the gradient of the
output projection) from what every token adds.

Such a step is at its peak when the forward pass of a row ends while the gradients of rows before it are there: that is
`StepMemory.total`. A first row has no gradients yet, and single products need room of their own besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from rung.base.errors import SettingsError
from rung.base.lookup import part
from rung.models.network import Network
from rung.models.recompute import outer_layers, recomputing
from rung.records.chat.frame import Rendered
from rung.records.packing import Example, PackedRow, pack
from rung.train.adapters import trainable
from rung.train.objectives.cross_entropy import CrossEntropy
from rung.train.settings import Part
from rung.train.step import row_loss
from rung.train.update import Precision

__all__ = ["PARTS", "Kept", "PartMemory", "StepMemory", "step_memory"]

PARTS = ("embedding", "attention", "feed-forward", "experts", "router", "norms", "residual stream", "output")
_REST, _OUTPUT = PARTS[-2:]
# what a class's name says, ours or transformers'; the first that is in it
_BY_NAME = {
    "norm": "norms", "router": "router", "expert": "experts", "sparse": "experts", "moe": "experts",
    "attention": "attention", "attn": "attention", "feedforward": "feed-forward", "mlp": "feed-forward",
    "embedding": "embedding",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes kept from a row's forward pass to its backward pass: `fixed` of every row, `per_token` of each token."""

    fixed: float
    per_token: float

    def of(self, num_tokens: int) -> float:
        """Of a row of so many tokens."""
        return self.fixed + self.per_token * num_tokens


@dataclass(frozen=True, slots=True)
class PartMemory:
    """Bytes of a part: what is there all the time, and what is kept of a row; `recomputed`: where layers are computed
    again for their gradients."""

    weights: int
    gradients: int
    state: int
    kept: Kept
    recomputed: Kept


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Of a whole step, by part; `layer` is what the largest layer keeps, which is there again, a layer at a time, where
    layers are computed again."""

    parts: Mapping[str, PartMemory]
    layer: Kept

    def total(self, num_tokens: int, *, recompute: bool = False) -> float:
        """Bytes held when the forward pass of a row of so many tokens has ended and rows before it have gradients."""
        held = sum(p.weights + p.gradients + p.state for p in self.parts.values())
        return held + self.kept(num_tokens, recompute=recompute)

    def kept(self, num_tokens: int, *, recompute: bool = False) -> float:
        """Bytes of a row alone."""
        return sum((p.recomputed if recompute else p.kept).of(num_tokens) for p in self.parts.values())


def step_memory(
    network: Network, num_tokens: int, *, precision: Precision = "float32", optimizer: Part = "adamw"
) -> StepMemory:
    """Measure a network as it is, or one of `rung.models.initialise.stand_in`; nothing about it is changed.

    Args:
        network: with its adapter on, or with every weight set to be trained.
        num_tokens: of each document; every token but the first is predicted. Attention may grow faster than documents.
        precision: of the forward pass.
        optimizer: a part of train/optim.

    Raises:
        SettingsError: documents longer than the network can read, or an unknown optimizer.
    """
    longest = network.shape.max_context
    if not 2 <= num_tokens <= (longest or num_tokens):
        raise SettingsError(
            f"documents of {num_tokens} tokens, the network reads 2 to {longest or 'any number of'}",
            place="tokens",
            hint="ask for shorter ones",
        )
    names = _parts_of(network)
    state = _state_bytes(trainable(network), optimizer)
    rows = [_row(network, num_tokens, count) for count in (1, 2)]
    plain, again = ([_Saved(network, names).row(row, precision, way) for row in rows] for way in (False, True))
    kept, recomputed = (_lines([one.by_part for one in ways], num_tokens) for ways in (plain, again))
    layers = _lines([one.by_layer for one in plain], num_tokens)
    found: dict[str, PartMemory] = {}
    for name in PARTS:
        own = {key: p for key, p in network.named_parameters() if names[key.rpartition(".")[0]] == name}
        weights = sum(p.nbytes for p in own.values()) + _buffer_bytes(network, names, name)
        found[name] = PartMemory(
            weights=weights,
            gradients=sum(p.nbytes for p in own.values() if p.requires_grad),
            state=sum(state.get(key, 0) for key in own),
            kept=kept.get(name, Kept(0.0, 0.0)),
            recomputed=recomputed.get(name, Kept(0.0, 0.0)),
        )
    return StepMemory(found, max(layers.values(), key=lambda one: one.of(num_tokens), default=Kept(0.0, 0.0)))


def _lines(counted: list[Counter[Any]], num_tokens: int) -> dict[Any, Kept]:
    """From what one document and two documents keep."""
    one, two = counted
    return {name: Kept(float(2 * one[name] - two[name]), (two[name] - one[name]) / num_tokens) for name in two | one}


def _parts_of(network: Network) -> dict[str, str]:
    """The part of every module by its name: what its class is called, else that of the module it is in."""
    found: dict[str, str] = {}
    for name, module in network.named_modules():
        said = type(module).__name__.lower()
        known = next((part for word, part in _BY_NAME.items() if word in said), "") if name else _REST
        if not known and getattr(module, "weight", None) is network.output_weight:
            known = _OUTPUT
        found[name] = known or found[name.rpartition(".")[0]]
    return found


def _buffer_bytes(network: Network, names: Mapping[str, str], wanted: str) -> int:
    return sum(b.nbytes for key, b in network.named_buffers() if names[key.rpartition(".")[0]] == wanted)


def _state_bytes(parameters: Mapping[str, nn.Parameter], optimizer: Part) -> dict[str, int]:
    """What the optimizer remembers of each parameter after a step, on tensors that have shapes and no contents."""
    kind, own = part("train.optim", optimizer, "optimizer")
    with FakeTensorMode():
        shadows = {name: nn.Parameter(torch.empty(p.shape, dtype=p.dtype)) for name, p in parameters.items()}
        for shadow in shadows.values():
            shadow.grad = torch.empty_like(shadow)
        made = kind(own).build(shadows)
        made.step()
    return {
        name: sum(value.nbytes for value in made.state[shadow].values() if isinstance(value, Tensor))
        for name, shadow in shadows.items()
    }


def _row(network: Network, num_tokens: int, num_documents: int) -> PackedRow:
    draw = torch.Generator().manual_seed(0)
    examples = []
    for number in range(num_documents):
        ids = torch.randint(network.shape.vocabulary, (num_tokens,), generator=draw).tolist()
        examples.append(Example(str(number), Rendered(tuple(ids), (False, *(True,) * (num_tokens - 1)), 1)))
    (row,) = pack(examples, num_tokens * num_documents)
    return row


_Found = tuple[str, int, int]
"""Part, layer (-1: none) and bytes of a storage."""


class _Saved:
    """Storages that are saved while a network runs: of which part, in which layer, how many bytes."""

    def __init__(self, network: Network, names: Mapping[str, str]) -> None:
        self.by_part: Counter[str] = Counter()
        self.by_layer: Counter[int] = Counter()
        self._network, self._names = network, names
        self._layers = {id(layer): number for number, layer in enumerate(outer_layers(network))}
        self._place: list[tuple[str, int]] = [(_OUTPUT, -1)]
        tensors = (*network.parameters(), *network.buffers())
        self._known: dict[StorageWeakRef, _Found] = {_storage(tensor): ("", -1, 0) for tensor in tensors}

    def row(self, row: PackedRow, precision: Precision, recompute: bool) -> _Saved:
        """Forward over a row, and count what is there when it has ended."""
        network, objective = self._network, CrossEntropy(CrossEntropy.Settings())
        was_training = network.training
        network.train()
        with (
            torch.random.fork_rng(),
            self._watching(recompute),
            recomputing(network, recompute),
            torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor),
        ):
            loss = row_loss(network, row, objective, precision)
        for storage, (name, layer, num_bytes) in self._known.items():
            if not storage.expired():  # type: ignore[no-untyped-call]
                self.by_part[name] += num_bytes
                self.by_layer[layer] += num_bytes
        del loss, self.by_part[""], self.by_layer[-1]
        network.train(was_training)
        return self

    def _save(self, tensor: Tensor) -> Tensor:
        self._note(tensor)
        # detached: the node that saves its own output would else hold itself
        return tensor.detach()

    def _note(self, tensor: Tensor) -> None:
        """It is the place's that saved it first."""
        self._known.setdefault(_storage(tensor), (*self._place[-1], tensor.untyped_storage().nbytes()))

    @contextmanager
    def _watching(self, recompute: bool) -> Iterator[None]:
        """Know which module computes, and that it is the body which does."""
        handles, hidden = [], self._network.hidden
        for name, module in self._network.named_modules():
            handles.append(module.register_forward_pre_hook(self._entering(self._names[name], recompute)))
            handles.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))

        def body(*inputs: Any) -> Tensor:
            """As the network's own."""
            self._place.append((_REST, -1))
            out = hidden(*inputs)
            self._leave()
            return out

        self._network.__dict__["hidden"] = body
        try:
            yield
        finally:
            del self._network.__dict__["hidden"]
            for handle in handles:
                handle.remove()

    def _entering(self, name: str, recompute: bool) -> Any:
        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            """A layer that is computed again holds all that it was given."""
            layer = self._layers.get(id(module), self._place[-1][1])
            self._place.append((name, layer))
            if recompute and id(module) in self._layers:
                for tensor in (x for x in tree_leaves(inputs) if isinstance(x, Tensor)):
                    self._note(tensor)

        return enter

    def _leave(self) -> None:
        self._place.pop()


def _storage(tensor: Tensor) -> StorageWeakRef:
    """Equal for equal storages, as long as it is kept even when they are gone."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
