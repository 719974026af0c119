"""Muon for matrices and AdamW beside it: who gets what, the same updates as torch's own, exact resume (item 194)."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import nn

from rung.base.events import Events
from rung.models.load import load
from rung.models.network import Network
from rung.records.chat.frame import Frame
from rung.records.packing import Example
from rung.train.adapters import prepare
from rung.train.loop import train
from rung.train.optim.muon import Muon
from rung.train.settings import AdapterSettings, SftSettings


def gradients(named: dict[str, nn.Parameter], seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    for parameter in named.values():
        parameter.grad = torch.randn(parameter.shape, generator=chance)


def parameters() -> dict[str, nn.Parameter]:
    chance = torch.Generator().manual_seed(0)
    shapes = {
        "model.embed_tokens.weight": (20, 8), "layer.q_proj.weight": (12, 8), "norm.weight": (8,), "experts": (2, 4, 8),
    }  # fmt: skip
    return {name: nn.Parameter(torch.randn(shape, generator=chance)) for name, shape in shapes.items()}


def test_matrices_inside_move_as_torchs_muon_moves_them_and_the_rest_as_adamw() -> None:
    ours, theirs = parameters(), parameters()
    made = Muon(Muon.Settings(weight_decay=0.0)).build(ours)
    inside = [theirs["layer.q_proj.weight"]]
    muon = torch.optim.Muon(inside, lr=0.01, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([p for p in theirs.values() if p is not inside[0]], lr=0.01, weight_decay=0.0, fused=True)
    for step in range(4):
        gradients(ours, step)
        gradients(theirs, step)
        for group in made.param_groups:
            group["lr"] = 0.01
        for one in (made, muon, adamw):
            one.step()
    for name, parameter in ours.items():
        assert torch.allclose(parameter, theirs[name], atol=1e-6), name
    assert "momentum_buffer" in made.state[ours["layer.q_proj.weight"]]
    assert "exp_avg" in made.state[ours["model.embed_tokens.weight"]]


def trained(folder: Path, optimizer: str, *, stop: int = 0) -> tuple[Network, list[float]]:
    loaded = load("tiny:llama", precision="float32", clean=False, strict=False)
    prepare(loaded.network, AdapterSettings(kind="none"), 0)
    examples = [
        Example(str(n), Frame.render(loaded.tokenizer, f"Say {n % 5}.", f"It is {n % 5}, and that is all."))
        for n in range(40)
    ]
    settings = SftSettings(
        epochs=3, sequences_per_step=8, learning_rate=5e-3, eval_fraction=0, optimizer=optimizer, checkpoint_interval=4
    )
    seen: list[int] = []

    def on_step(num_tokens: int) -> None:
        seen.append(num_tokens)
        if stop and len(seen) == stop:
            raise KeyboardInterrupt

    result = train(
        loaded.network, loaded.tokenizer, examples, settings, events=Events(), scratch=folder, on_step=on_step
    )
    return loaded.network, [loss for _, loss in result.losses]


def test_it_trains_and_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, losses = trained(tmp_path / "whole", "muon")
    assert losses[-1] < 0.7 * losses[0]
    with contextlib.suppress(KeyboardInterrupt):
        trained(tmp_path / "parts", "muon", stop=7)
    resumed, again = trained(tmp_path / "parts", "muon")
    assert again == losses
    state = whole.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.state_dict().items())
    assert trained(tmp_path / "other", "adamw")[1] != losses
