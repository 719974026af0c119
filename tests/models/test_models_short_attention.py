"""Short documents in training under bfloat16: three plain products, as exact as the fused kernel or more so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rung.models.layers import attend
from rung.models.layers.attend import STEP, PackedAttend

LENGTHS = [5, 16, 17, 40, 40, 1]


def run(inputs: list[Tensor], lengths: list[int], *, window: int, half: bool) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients, under autocast where `half`."""
    parts = [x.clone().requires_grad_() for x in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        seen = PackedAttend([lengths])(0, *parts, scale=0.3, window=window)
    (seen.double() * torch.linspace(-1, 1, seen.numel()).view(seen.shape)).sum().backward()
    return seen.detach().double(), [part.grad.double() for part in parts if part.grad is not None]


@pytest.mark.parametrize("window", [0, 7])
def test_outputs_and_gradients_are_those_of_exact_attention(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = torch.Generator().manual_seed(1)
    num = sum(LENGTHS) + 3  # the last three are padding
    inputs = [torch.randn(1, num, heads, 16, generator=chance) for heads in (4, 2, 2)]
    exact = run([x.double() for x in inputs], LENGTHS, window=window, half=False)
    ours = run(inputs, LENGTHS, window=window, half=True)
    monkeypatch.setattr(attend, "is_short", lambda *_: False)
    fused = run(inputs, LENGTHS, window=window, half=True)
    for found, other, wanted in zip((ours[0], *ours[1]), (fused[0], *fused[1]), (exact[0], *exact[1]), strict=True):
        size = float(wanted.abs().max())
        error, theirs = (float((x - wanted).abs().max()) / size for x in (found, other))
        assert error < 1e-2
        assert error < 1.5 * theirs


def test_it_is_taken_for_gradients_in_bfloat16_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    plain = attend.attend_short
    monkeypatch.setattr(attend, "attend_short", lambda *a, **k: called.append(1) or plain(*a, **k))
    inputs = [torch.randn(1, sum(LENGTHS), 2, 16) for _ in range(3)]
    run(inputs, LENGTHS, window=0, half=False)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        PackedAttend([LENGTHS])(0, *inputs, scale=1.0, window=0)
    assert not called
    run(inputs, LENGTHS, window=0, half=True)
    assert len(called) == len({-(-length // STEP) for length in LENGTHS}), "documents of nearly equal length together"


def test_what_fills_a_document_up_changes_nothing() -> None:
    """Not even where it is huge: the last token, which stands there again, is scaled up and no other one sees it."""
    chance = torch.Generator().manual_seed(2)
    inputs = [torch.randn(1, 23, heads, 16, generator=chance) for heads in (4, 2, 2)]
    before, _ = run(inputs, [3, 20], window=0, half=False)
    for part in inputs:
        part[:, 22] *= 1e4
    after, gradients = run(inputs, [3, 20], window=0, half=False)
    assert torch.equal(before[:, :22], after[:, :22])
    assert all(gradient.isfinite().all() for gradient in gradients)
