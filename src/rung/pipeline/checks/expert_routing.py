"""Experts see tokens, not rows: a token's experts do not depend on its neighbours, and padding is nobody's.

Where a batch is flattened for the experts, padding takes their places and counts as load, and what is dropped depends
on what was packed beside it. A document is routed alone, beside a neighbour and beside another one; then a row with
padding is run as in training.

Legend: B batch, T token, N tokens of a row, k experts of a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, not_applicable, verdict
from rung.pipeline.checks._subject import Subject
from rung.pipeline.stages._model import room

__all__ = ["ExpertRouting"]

_PADDING = 24


class ExpertRouting(Check):
    """Changes neighbours and padding, and watches the routers."""

    Settings = BaseSettings
    guards = "experts that depend on the neighbours in a row, or work on padding"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """Choices, then counts."""
        network = subject.loaded.network
        layers = [one for one in network.modules() if isinstance(one, room("models.layers.experts").SparseFeedForward)]
        if not layers:
            return not_applicable("the network has no experts")
        few = [example.rendered.token_ids for _, example in subject.few(2)]
        if len(few) < 2:
            return not_applicable("two examples are needed")
        neighbour, watched = few
        alone = _choices(subject, layers, [watched])
        problems = []
        for name, other in (("one neighbour", neighbour), ("another", neighbour[::-1])):
            beside = [chosen[len(other) :] for chosen in _choices(subject, layers, [other, watched])]
            changed = sum(int((a != b).any(1).sum()) for a, b in zip(alone, beside, strict=True))
            if changed:
                problems.append(f"{changed} of {len(layers) * len(watched)} tokens have other experts beside {name}")
        counted = _counted(subject, layers, watched)
        if any(num != len(watched) for num, _ in counted):
            problems.append(f"{counted[0][0]} tokens are counted in a row of {len(watched)} and {_PADDING} of padding")
        if any(size > 0 for _, size in counted):
            problems.append("padding comes out of the experts as something")
        return verdict(problems, f"{len(layers)} layers: the same experts in all rows, none for padding")


@contextmanager
def _watching(modules: list[Any], note: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(note) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(subject: Subject, documents: list[Any], padding: int) -> None:
    network = subject.loaded.network
    device = network.output_weight.device
    ids = [*(token for one in documents for token in one), *[subject.tokenizer.pad_id] * padding]
    positions = [*(place for one in documents for place in range(len(one))), *range(padding)]
    attend = subject.training.attend([[len(one) for one in documents]])
    network.hidden(torch.tensor([ids], device=device), torch.tensor([positions], device=device), attend)


@torch.inference_mode()
def _choices(subject: Subject, layers: list[Any], documents: list[Any]) -> list[Tensor]:
    """Of every layer each token's experts [N, k], in ascending order."""
    found: list[Tensor] = []

    def note(module: Any, given: Any, routed: Any) -> None:
        found.append(routed.experts.sort(1).values)

    with _watching([layer.gate for layer in layers], note):
        _run(subject, documents, 0)
    return found


def _counted(subject: Subject, layers: list[Any], document: Any) -> list[tuple[int, float]]:
    """Of every layer, as in training, how many tokens it counted in a padded row, and the size of what it makes of
    padding."""
    found: list[tuple[int, float]] = []

    def note(module: Any, given: Any, made: Any) -> None:
        out_BTD, noted = made
        found.append((int(noted.num_tokens), float(out_BTD[0, len(document) :].detach().abs().max())))

    network = subject.loaded.network
    was_training = network.training
    network.train()
    try:
        with _watching(layers, note), torch.enable_grad():
            _run(subject, [document], _PADDING)
    finally:
        network.train(was_training)
        if network.balance is not None:
            network.balance.take_loss(False)
    return found
