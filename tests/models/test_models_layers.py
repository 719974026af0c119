"""The layers: attention that isolates documents, windows, padding, rotary positions, norms."""

from __future__ import annotations

import pytest
import torch

from rung.base.errors import ModelError
from rung.models.layers.attend import CausalAttend, PackedAttend
from rung.models.layers.normalisation import RMSNorm
from rung.models.layers.rotary import Rotary, RotarySettings, rotate

NUM_HEADS, NUM_KV_HEADS, WIDTH = 4, 2, 8


def heads(num_rows: int, num_tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(num_rows, num_tokens, count, WIDTH, generator=generator)
        for count in (NUM_HEADS, NUM_KV_HEADS, NUM_KV_HEADS)
    )
    return query, key, value


def reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int) -> torch.Tensor:
    key, value = (x.repeat_interleave(NUM_HEADS // NUM_KV_HEADS, dim=2) for x in (key, value))
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * scale
    at = torch.arange(query.shape[1])
    distance = at[:, None] - at[None]
    allowed = (distance >= 0) & ((distance < window) if window else True)
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value)


@pytest.mark.parametrize("window", [0, 1, 3, 50])
def test_causal_attention_is_the_textbook_formula(window: int) -> None:
    tensors = heads(2, 11)
    got = CausalAttend()(0, *tensors, scale=0.3, window=window)
    torch.testing.assert_close(got, reference(*tensors, 0.3, window), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [0, 3])
def test_left_padding_is_never_seen(window: int) -> None:
    query, key, value = heads(2, 9)
    got = CausalAttend([4, 0])(0, query, key, value, scale=0.3, window=window)
    alone = CausalAttend()(0, query[:1, 4:], key[:1, 4:], value[:1, 4:], scale=0.3, window=window)
    torch.testing.assert_close(got[:1, 4:], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1:], reference(query, key, value, 0.3, window)[1:], atol=1e-5, rtol=1e-5)
    assert got.isfinite().all()


@pytest.mark.parametrize("window", [0, 2])
def test_packed_documents_are_each_attended_alone(window: int) -> None:
    lengths = [[3, 5, 3], [1, 3, 5]]
    query, key, value = (x.requires_grad_() for x in heads(2, 12))
    got = PackedAttend(lengths)(0, query, key, value, scale=0.3, window=window)
    for row, sizes in enumerate(lengths):
        start = 0
        for size in sizes:
            part = slice(start, start + size)
            pieces = (x[row : row + 1, part] for x in (query, key, value))
            torch.testing.assert_close(got[row : row + 1, part], reference(*pieces, 0.3, window), atol=1e-5, rtol=1e-5)
            start += size
        assert (got[row, start:] == 0).all()
    gradient = torch.autograd.grad(got[0, 3:8].sum(), [key, value])
    for x in gradient:
        assert (x[0, :3] == 0).all()
        assert (x[0, 8:] == 0).all()
        assert (x[1] == 0).all()


def test_packed_lengths_that_do_not_fit_the_batch_are_refused() -> None:
    tensors = heads(1, 4)
    with pytest.raises(ModelError, match="1 x 4"):
        PackedAttend([[3, 2]])(0, *tensors, scale=1.0, window=0)
    with pytest.raises(ModelError, match="at least one token"):
        PackedAttend([[3, 0]])


def test_rotary_scores_depend_on_distance_alone() -> None:
    rotary = Rotary(RotarySettings(theta=100.0), WIDTH)
    query, key, _ = heads(1, 1)
    key = key.repeat_interleave(2, dim=2)

    def score(at_query: int, at_key: int) -> torch.Tensor:
        angles = [rotary.angles(torch.tensor([[at]]), torch.float32) for at in (at_query, at_key)]
        return (rotate(query, *angles[0]) * rotate(key, *angles[1])).sum(-1)

    torch.testing.assert_close(score(7, 3), score(104, 100), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(score(7, 3), score(7, 4), atol=1e-3)


def test_linear_rotary_scaling_divides_positions() -> None:
    plain = Rotary(RotarySettings(theta=100.0), WIDTH)
    stretched = Rotary(RotarySettings(theta=100.0, scaling="linear", factor=4.0), WIDTH)
    for mine, theirs in zip(
        stretched.angles(torch.tensor([[8]]), torch.float32),
        plain.angles(torch.tensor([[2]]), torch.float32),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_a_centred_norm_is_neutral_at_weight_zero() -> None:
    x = torch.randn(3, 16)
    torch.testing.assert_close(RMSNorm(16, 1e-6, centred=True)(x), RMSNorm(16, 1e-6)(x))
