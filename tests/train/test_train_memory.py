"""What a step holds, by part (item 282): the parts add up to what torch's tensors really hold, recomputed layers keep
less, and a stand-in whose layers share their weights is measured as the network itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rung.base.errors import SettingsError
from rung.base.lookup import lookup
from rung.models.families.coder import Coder
from rung.models.families.fallback import Fallback, FallbackSettings
from rung.models.families.llama import Llama
from rung.models.initialise import stand_in
from rung.models.layers.attend import PackedAttend
from rung.models.network import Network
from rung.models.recompute import outer_layers, recomputing
from rung.records.chat.frame import Rendered
from rung.records.packing import Example, PackedRow, pack
from rung.train.adapters import prepare, trainable
from rung.train.memory import PARTS, step_memory
from rung.train.objectives.cross_entropy import CrossEntropy
from rung.train.optim.adamw import AdamW
from rung.train.settings import AdapterSettings
from rung.train.step import accumulate, row_loss, train_step

OBJECTIVE = CrossEntropy(CrossEntropy.Settings())


def tiny(family: str, kind: str = "none", make: Callable[..., Any] | None = None, **choices: Any) -> Network:
    """Of a family, every weight or an adapter trained."""
    found = lookup("models.families", family)
    settings = found.SIZES["tiny"].model_copy(update=choices)
    network: Network = make(lambda: found(settings)) if make else found.build(settings)
    prepare(network, AdapterSettings(kind=kind, rank=4), seed=0)
    return network


class Everything(TorchDispatchMode):
    """Every storage that an operation of torch makes, saved by a hook or not."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.seen: dict[StorageWeakRef, int] = {}
        self._note([*network.parameters(), *network.buffers()])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As without it."""
        out = func(*args, **(kwargs or {}))
        self._note(tree_leaves(out))
        return out

    def _note(self, found: list[Any]) -> None:
        for x in found:
            if isinstance(x, Tensor):
                self.seen[StorageWeakRef(x.untyped_storage())] = x.untyped_storage().nbytes()

    def held(self) -> int:
        """Bytes of those that are still there."""
        return sum(num_bytes for storage, num_bytes in self.seen.items() if not storage.expired())


def two_documents(num_tokens: int) -> PackedRow:
    draw = torch.Generator().manual_seed(1)
    ids = [tuple(torch.randint(200, (num_tokens,), generator=draw).tolist()) for _ in range(2)]
    mask = (False, *(True,) * (num_tokens - 1))
    (row,) = pack([Example(str(n), Rendered(one, mask, 1)) for n, one in enumerate(ids)], 2 * num_tokens)
    return row


def really_held(network: Network, num_tokens: int, precision: Any, *, recompute: bool) -> int:
    """After the forward pass of a second row of two documents, in the second step."""
    row = two_documents(num_tokens)
    network.train()
    optimizer = AdamW(AdamW.Settings()).build(trainable(network))
    with Everything(network) as everything, recomputing(network, recompute):
        train_step(network, optimizer, [row], OBJECTIVE, learning_rate=0.0, clip=0.0, precision=precision)
        accumulate(network, [row], OBJECTIVE, precision)
        loss = row_loss(network, row, OBJECTIVE, precision)
        found = everything.held()
    del loss
    return found


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("family", "kind", "precision"), [
    ("coder", "none", "float32"), ("coder", "none", "bfloat16"), ("coder", "lora", "float32"),
    ("llama", "none", "float32"), ("gemma3", "none", "bfloat16"), ("gpt2", "none", "float32"),
])  # fmt: skip
def test_the_parts_add_up_to_what_is_there(family: str, kind: str, precision: Any, recompute: bool) -> None:
    network = tiny(family, kind)
    memory = step_memory(network, 96, precision=precision)
    held = really_held(network, 96, precision, recompute=recompute)
    assert memory.total(192, recompute=recompute) == pytest.approx(held, rel=0.01)


def test_recomputed_layers_keep_what_they_were_given_alone() -> None:
    memory = step_memory(tiny("coder", num_layers=4), 96)
    for name in ("attention", "experts", "router"):
        assert memory.parts[name].kept.of(192) > 0
        assert memory.parts[name].recomputed.of(192) == 0
    stream = memory.parts["residual stream"].recomputed.per_token
    assert stream == pytest.approx(4 * 4 * 64 + 2 * 4 * 16, rel=0.01), "four layers' inputs, and one cosine and sine"
    assert memory.kept(192, recompute=True) < 0.2 * memory.kept(192)
    in_layers = memory.kept(192) - memory.kept(192, recompute=True)
    assert in_layers / 4 < memory.layer.of(192) < 2 * in_layers / 4


def test_a_stand_in_is_measured_as_the_network_itself() -> None:
    real, shared = (step_memory(tiny("coder", make=make, num_layers=3), 96) for make in (None, stand_in))
    for name in PARTS:
        one, other = asdict(real.parts[name]), asdict(shared.parts[name])
        for key in ("weights", "gradients", "state"):
            assert one[key] == other[key]
        for key in ("kept", "recomputed"):
            # which experts are chosen is a matter of the weights, and every expert's rows are filled up
            assert one[key]["per_token"] == pytest.approx(other[key]["per_token"], rel=0.05)


def test_layers_of_a_stand_in_share_their_weights_and_other_layers_do_not() -> None:
    network = stand_in(lambda: Coder(Coder.SIZES["tiny"].model_copy(update={"num_layers": 3})))
    places = [{p.data_ptr() for p in layer.parameters()} for layer in outer_layers(network)]
    assert places[0] == places[1] == places[2]
    assert len(places[0]) == len(list(network.model.layers[0].parameters()))
    assert not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
    ids = torch.arange(8)[None]
    assert bool(network.hidden(ids, ids, PackedAttend([[8]])).isfinite().all())


def test_state_and_gradients_are_those_of_what_is_trained() -> None:
    full, adapted = step_memory(tiny("llama"), 32), step_memory(tiny("llama", "lora"), 32)
    weights = sum(part.weights for part in full.parts.values())
    num_tensors = len(list(tiny("llama").parameters()))
    assert sum(part.gradients for part in full.parts.values()) == weights
    assert sum(part.state for part in full.parts.values()) == 2 * weights + 4 * num_tensors
    trained = sum(p.nbytes for p in trainable(tiny("llama", "lora")).values())
    assert sum(part.gradients for part in adapted.parts.values()) == trained
    assert adapted.parts["embedding"].gradients == adapted.parts["norms"].state == 0
    by_muon = step_memory(tiny("llama"), 32, optimizer="muon")
    assert by_muon.parts["attention"].state == full.parts["attention"].weights
    assert by_muon.parts["embedding"].state == full.parts["embedding"].state


def test_an_untied_output_projection_is_a_part_and_its_gradient_is_kept_by_every_row() -> None:
    memory = step_memory(tiny("llama", tied_head=False), 32)
    assert memory.parts["output"].weights == 300 * 32 * 4
    assert memory.parts["output"].kept.fixed == pytest.approx(300 * 32 * 4, rel=0.01)
    assert step_memory(tiny("llama"), 32).parts["output"].weights == 0


def test_a_wrapped_model_of_transformers_has_the_same_parts() -> None:
    own = Llama.build(Llama.SIZES["tiny"])
    network = Fallback.build(FallbackSettings(config=own.published_config()))
    prepare(network, AdapterSettings(kind="none"), seed=0)
    prepare(own, AdapterSettings(kind="none"), seed=0)
    theirs, ours = step_memory(network, 32), step_memory(own, 32)
    for name in PARTS:
        assert theirs.parts[name].weights == pytest.approx(ours.parts[name].weights, rel=0.01), "and its frequencies"
    assert all(theirs.parts[name].kept.per_token > 0 for name in ("attention", "feed-forward", "norms"))


def test_the_network_is_left_as_it_was() -> None:
    network = tiny("coder")
    assert network.balance is not None
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    step_memory(network.eval(), 32)
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training
    assert "hidden" not in network.__dict__
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert not bool(network.balance.state["balance.load"].any())
    assert network.balance.settle(lambda sums: sums) == {}


def test_documents_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(SettingsError, match="documents of 513 tokens, the network reads 2 to 512"):
        step_memory(tiny("gpt2"), 513)
    with pytest.raises(SettingsError, match="adam"):
        step_memory(tiny("gpt2"), 32, optimizer="adam")
