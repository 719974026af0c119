"""A prompt that stands once is seen by every continuation as if it stood before each, and siblings are not."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from torch import Tensor

from rung.base.errors import ModelError
from rung.models.layers import shared_attend
from rung.models.layers.attend import attend_causally, attend_short
from rung.models.layers.shared_attend import SharedPrefixAttend

HEADS, KV_HEADS, WIDTH, SCALE = 4, 2, 8, 0.3
ROWS = {
    "one group": [(5, (3, 9, 1, 4))],
    "several": [(6, (2, 2, 5)), (0, (7,)), (1, (3, 0, 11)), (13, (1, 1))],
    "documents": [(0, (4, 4, 9))],
    "prompt alone": [(4, (0, 0)), (3, (2, 2))],
}


def alone(groups, query, key, value, window) -> Tensor:
    """Every continuation with its own copy of the prompt, one at a time."""
    pieces, start = [], 0
    for prompt, lengths in groups:
        ends = [*accumulate(lengths, initial=start + prompt)]
        spans = [range(start, start + prompt)] * (prompt > 0)
        spans += [[*range(start, start + prompt), *range(a, b)] for a, b in pairwise(ends)]
        for number, span in enumerate(spans):
            q, k, v = (x[:, list(span)] for x in (query, key, value))
            seen = attend_causally(q, k, v, scale=SCALE, window=window)
            pieces.append(seen if prompt and number == 0 else seen[:, prompt:])
        start = ends[-1]
    return torch.cat(pieces, 1)


def inputs(groups, dtype=torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    num = sum(prompt + sum(lengths) for prompt, lengths in groups)
    return [torch.randn(1, num, h, WIDTH, generator=generator).to(dtype) for h in (HEADS, KV_HEADS, KV_HEADS)]


def both_ways(attend, groups, window, tensors):
    found = []
    for function in (
        lambda q, k, v: attend(0, q, k, v, scale=SCALE, window=window),
        lambda *t: alone(groups, *t, window),
    ):
        leaves = [x.clone().requires_grad_() for x in tensors]
        seen = function(*leaves)
        (seen.float() * torch.arange(seen.numel()).reshape(seen.shape).sin()).sum().backward()
        found.append([seen.detach(), *(x.grad for x in leaves)])
    return zip(*found, strict=True)


@pytest.mark.parametrize("window", [0, 1, 2, 4, 7, 100])
@pytest.mark.parametrize("name", ROWS)
def test_values_and_gradients_are_those_of_repeated_prompts(name: str, window: int) -> None:
    for ours, theirs in both_ways(SharedPrefixAttend(ROWS[name]), ROWS[name], window, inputs(ROWS[name])):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [0, 1, 4, 7])
@pytest.mark.parametrize("name", ROWS)
def test_the_way_for_accelerators_gives_the_same(monkeypatch, name: str, window: int) -> None:
    attend = SharedPrefixAttend(ROWS[name])
    monkeypatch.setattr(shared_attend, "_has_flash", lambda device: False)
    monkeypatch.setattr(shared_attend, "_Merged", None)
    for ours, theirs in both_ways(attend, ROWS[name], window, inputs(ROWS[name])):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


def test_bfloat16_is_as_exact_as_bfloat16_is() -> None:
    groups = ROWS["several"]
    for ours, theirs in both_ways(SharedPrefixAttend(groups), groups, 0, inputs(groups, torch.bfloat16)):
        torch.testing.assert_close(ours.float(), theirs.float(), atol=0.06, rtol=0.06)


def test_autocast_narrows_as_torchs_own_attention_does() -> None:
    groups = ROWS["one group"]
    tensors = inputs(groups)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = SharedPrefixAttend(groups)(0, *tensors, scale=SCALE, window=0)
    assert seen.dtype == torch.bfloat16
    torch.testing.assert_close(seen.float(), alone(groups, *tensors, 0), atol=0.03, rtol=0.03)


@pytest.mark.parametrize("window", [0, 1, 4, 7, 100])
@pytest.mark.parametrize("name", ROWS)
def test_short_groups_in_bfloat16_are_those_of_repeated_prompts(monkeypatch, name: str, window: int) -> None:
    tensors = [x.to(torch.bfloat16) for x in inputs(ROWS[name])]
    used = []
    monkeypatch.setattr(shared_attend, "attend_short", lambda *a: (used.append(1), attend_short(*a))[1])
    [found, expected] = zip(*both_ways(SharedPrefixAttend(ROWS[name]), ROWS[name], window, tensors), strict=True)
    assert used or all(not any(lengths) for _, lengths in ROWS[name])
    exact = [x for _, x in both_ways(SharedPrefixAttend(ROWS[name]), ROWS[name], window, inputs(ROWS[name]))]
    for one, other, true in zip(found, expected, exact, strict=True):
        # no further from float32 than a copy of the prompt for each continuation is
        assert float((one - true).norm()) <= 1.2 * float((other - true).norm()) + 0.01 * float(true.norm())


def test_a_sibling_is_never_seen() -> None:
    groups = [(4, (3, 3))]
    query, key, value = inputs(groups)
    seen = SharedPrefixAttend(groups)(0, query, key, value, scale=SCALE, window=0)
    value[:, 4:7] = torch.nan
    key[:, 4:7] = torch.nan
    again = SharedPrefixAttend(groups)(0, query, key, value, scale=SCALE, window=0)
    assert torch.equal(again[:, 7:], seen[:, 7:])
    assert torch.equal(again[:, :4], seen[:, :4])
    assert again[:, 4:7].isnan().all()


def test_a_batch_that_the_groups_do_not_describe_is_refused() -> None:
    with pytest.raises(ModelError, match="the groups have 10 tokens"):
        SharedPrefixAttend([(4, (3, 3))])(0, *inputs([(4, (3,))]), scale=SCALE, window=0)
    with pytest.raises(ModelError, match="negative"):
        SharedPrefixAttend([(4, (-1, 3))])
