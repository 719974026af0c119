"""The compiled kernels against torch's own, a row's independence of its neighbours, and what happens without them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.engine.engine_models import llama, stirred
from torch.nn import functional

from rung.base.events import Events
from rung.engine.engine import Engine
from rung.engine.sampling.draw import DrawSettings, draw
from rung.models.families.llama import Llama
from rung.models.layers.attend import CausalAttend
from rung.models.layers.normalisation import RMSNorm
from rung.models.layers.projection import product
from rung.models.layers.rotary import Rotary, RotarySettings, rotate
from rung.models.native import build, gradients, kernels
from rung.models.native.kernels import OFF, Best, Kernels, Looks
from rung.records.contracts import Request, Sampling

HALF = torch.bfloat16


@pytest.fixture
def ours() -> Kernels:
    found = kernels.kernels()
    if found is None:
        pytest.skip(f"no compiled kernels here: {kernels.reason()}")
    return found


@pytest.fixture(autouse=True)
def decided_anew() -> Iterator[None]:
    yield
    forget()


@pytest.fixture
def fresh() -> Iterator[None]:
    for found in (kernels._loaded, kernels._product_pays):
        found.cache_clear()
    forget()
    yield
    for found in (kernels._loaded, kernels._product_pays):
        found.cache_clear()


def forget() -> None:
    """Whether there are kernels is decided once in a process."""
    for found in (kernels.kernels, kernels.product_kernels):
        found.cache_clear()


def switch(monkeypatch: pytest.MonkeyPatch, *, on: bool) -> None:
    monkeypatch.setenv(OFF, "1" if on else "0")
    forget()


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize(("num_each", "width"), [(1, 16), (3, 64), (5, 80), (8, 256)])
def test_attention_is_the_softmax_of_what_a_row_looks_at(
    ours: Kernels, dtype: torch.dtype, num_each: int, width: int
) -> None:
    slots, num_kv_heads, capacity = 5, 2, 70
    keys, values = (random(slots, num_kv_heads, capacity, width, dtype=dtype, seed=i) for i in (1, 2))
    query = random(4, num_kv_heads * num_each, width, dtype=dtype, seed=3)
    looks = Looks(torch.tensor([4, 0, 0, 2]), torch.tensor([0, 7, 0, 33]), torch.tensor([69, 7, 20, 64]))
    seen, total = ours.attend(query, keys, values, looks, 0.2)
    for row, (slot, first, last) in enumerate(zip(looks.slots, looks.firsts, looks.lasts, strict=True)):
        k, v = (t[slot, :, first : last + 1].double() for t in (keys, values))
        score = query[row].double().view(num_kv_heads, num_each, width) @ k.transpose(1, 2) * 0.2
        expected = (score.softmax(-1) @ v).view(-1, width)
        assert torch.allclose(total[row].double(), score.logsumexp(-1).view(-1), atol=1e-5)
        assert torch.allclose(seen[row].double(), expected, atol=1e-6 if dtype == torch.float32 else 2e-2)
    alone = ours.attend(
        query[2:3], keys, values, Looks(*(t[2:3] for t in (looks.slots, looks.firsts, looks.lasts))), 0.2
    )
    assert torch.equal(alone[0][0], seen[2])
    assert torch.equal(alone[1][0], total[2])


def test_a_row_that_looks_at_nothing_sees_zeros_that_weigh_nothing(ours: Kernels) -> None:
    keys, query = random(2, 1, 8, 16), random(2, 3, 16, seed=1)
    seen, total = ours.attend(query, keys, keys, Looks(*(torch.tensor(x) for x in ([0, 1], [0, 5], [-1, 7]))), 1.0)
    assert not seen[0].any()
    assert torch.isneginf(total[0]).all()
    assert seen[1].any()
    assert total[1].isfinite().all()


@pytest.mark.parametrize(("width", "num_out"), [(64, 48), (66, 1), (576, 113)])
def test_a_product_is_the_matrix_product_and_a_row_has_its_own_bits(ours: Kernels, width: int, num_out: int) -> None:
    if not ours.has_product:
        pytest.skip("this processor's vectors do not multiply bfloat16")
    x, weight = random(131, width, dtype=HALF), random(num_out, width, dtype=HALF, seed=1)
    found, exact = ours.product(x, weight), x.double() @ weight.double().T
    assert ((found.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-3).all()
    for first, count in ((0, 1), (5, 3), (60, 17), (64, 64), (130, 1), (3, 100)):
        assert torch.equal(ours.product(x[first : first + count], weight), found[first : first + count])


def test_statistics_of_chunks_are_those_of_the_whole(ours: Kernels) -> None:
    logits = random(3, 1000) * 5
    logits[1, 400] = logits[1, 900] = 40.0
    running, times = torch.tensor([[-torch.inf, 0.0, 0.0]]).repeat(3, 1), torch.tensor([1.0, 0.5, 2.0])
    value, place = torch.full((3,), -torch.inf), torch.zeros(3, dtype=torch.int64)
    for start in range(0, 1000, 300):
        chunk = logits[:, start : start + 300]
        ours.add_chunk(chunk, running, times=times, weighted=True, best=Best(value, place, start))
    total, entropy = ours.finish(running)
    whole = (logits * times[:, None]).double()
    assert torch.allclose(total.double(), whole.logsumexp(1), rtol=1e-6)
    expected = torch.distributions.Categorical(logits=whole).entropy()
    assert torch.allclose(entropy.double(), expected, atol=1e-4)
    assert place.tolist() == [int(logits[0].argmax()), 400, int(logits[2].argmax())]


def test_masks_leave_what_they_allow(ours: Kernels) -> None:
    logits = random(4, 333)
    before, masks = logits.clone(), [random(333, seed=i) > 0.5 for i in (1, 2)]
    best, total = ours.mask_rows(logits, [2, 0], masks, torch.tensor([1.0, 0.25]))
    for n, (row, inverse) in enumerate(((2, 1.0), (0, 0.25))):
        left = before[row].masked_fill(~masks[n], -torch.inf)
        assert torch.equal(logits[row], left)
        assert int(best[n]) == int(left.argmax())
        assert float(total[n]) == pytest.approx(float((left * inverse).double().logsumexp(0)), abs=1e-5)
    assert torch.equal(logits[[1, 3]], before[[1, 3]])


@pytest.mark.parametrize("heat", [0.2, 1.0, 6.0])
@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.9, 0.999, 1.0])
def test_draws_equal_those_of_a_full_sort(
    ours: Kernels, monkeypatch: pytest.MonkeyPatch, heat: float, top_p: float
) -> None:
    logits = (random(64, 5000) * 3).round(decimals=1)  # many equals
    logits[1::7, 100:] = -torch.inf
    inverse = torch.full((64,), 1 / heat)
    total = (logits * inverse[:, None]).logsumexp(1)
    settings = DrawSettings(inverse, torch.full((64,), top_p), torch.zeros(64, dtype=torch.long), keep=True)
    uniform = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    uniform[:2] = torch.tensor([0.0, 1 - 1e-12])
    found = draw(logits, total, settings, uniform)
    switch(monkeypatch, on=False)
    expected = draw(logits, total, settings, uniform)
    assert found.kept is not None
    assert expected.kept is not None
    sizes = [
        (None if a is None else len(a), None if b is None else len(b))
        for a, b in zip(found.kept, expected.kept, strict=True)
    ]
    # equal up to a rounding of the sums: at most a neighbour in the order
    assert all(a == b or abs(a - b) <= 1 for a, b in sizes)
    agree = found.token == expected.token
    assert agree.float().mean() >= 0.96
    assert torch.allclose(found.logprob[agree], expected.logprob[agree], atol=2e-5)


def test_layers_round_where_torch_rounds(ours: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    x, gate, up = random(3, 5, 64, dtype=HALF), random(7, 96, dtype=HALF, seed=1) * 4, random(7, 96, dtype=HALF, seed=2)
    heads, angle = random(3, 5, 2, 32, dtype=HALF, seed=3), random(3, 5, 1, 32, seed=4)
    for centred in (False, True):
        norm = RMSNorm(64, 1e-5, centred).to(HALF)
        norm.weight.data.copy_(random(64, seed=5))
        with torch.no_grad():
            found = norm(x), rotate(heads, angle.cos().to(HALF), angle.sin().to(HALF))
            switch(monkeypatch, on=False)
            expected = norm(x), rotate(heads, angle.cos().to(HALF), angle.sin().to(HALF))
            switch(monkeypatch, on=True)
        for one, other in zip(found, expected, strict=True):
            assert torch.allclose(one.float(), other.float(), rtol=2**-7, atol=2**-9)
            assert (one == other).float().mean() > 0.97
    for gelu, plain in ((False, functional.silu), (True, lambda g: functional.gelu(g, approximate="tanh"))):
        assert torch.allclose(ours.gated(gate, up, gelu).float(), (plain(gate) * up).float(), rtol=2**-6, atol=2**-8)


def test_what_is_trained_does_not_go_through_them(ours: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kernels, "rms_norm", lambda *_: pytest.fail("a gradient would be lost"))
    norm = RMSNorm(64, 1e-5).to(HALF)
    norm(random(2, 64, dtype=HALF)).sum().backward()
    assert norm.weight.grad is not None


def test_the_switch_turns_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    switch(monkeypatch, on=False)
    assert kernels.kernels() is None
    assert kernels.product_kernels() is None
    assert OFF in kernels.reason()
    x, weight = random(3, 8, dtype=HALF), random(2, 8, dtype=HALF)
    assert torch.equal(product(x, weight), functional.linear(x, weight))


def test_without_a_compiler_the_engine_runs_and_says_why(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path))
    assert kernels.kernels() is None
    assert "no C++ compiler" in kernels.reason()
    said: list[str] = []
    monkeypatch.setattr(Events, "degraded", lambda self, what, why: said.append(f"{what}: {why}"))
    done = Engine(llama(), events=Events()).complete([Request("a", Sampling(max_new_tokens=4), text="ab")])
    assert len(done[0].token_ids) == 4 or done[0].finish_reason == "eos"
    assert any("no C++ compiler" in line for line in said)


def test_a_compiler_that_fails_is_named(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo broken 1 || { echo no such thing >&2; exit 3; }\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    assert kernels.kernels() is None
    assert "no such thing" in kernels.reason()
    assert not list((tmp_path / "cache" / "native").glob("*"))  # nothing half-built is left


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_the_gradients_of_a_gate_are_those_of_its_formula(ours: Kernels, activation: str) -> None:
    torch.manual_seed(2)
    gate, up, outer = (3 * torch.randn(7, 5, 96) for _ in range(3))
    gelu = activation == "gelu_tanh"
    wide = [x.to(HALF).double().requires_grad_() for x in (gate, up)]
    opened = functional.gelu(wide[0], approximate="tanh") if gelu else functional.silu(wide[0])
    expected = (opened * wide[1], *torch.autograd.grad(opened * wide[1], wide, outer.to(HALF).double()))
    narrow = [x.to(HALF).requires_grad_() for x in (gate, up)]
    made = gradients.gated(ours, *narrow, gelu)
    found = (made, *torch.autograd.grad(made, narrow, outer.to(HALF)))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == HALF
        assert torch.allclose(one.double(), other, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("angles", [torch.float32, HALF])
def test_the_gradient_of_a_turn_is_the_turn_back(ours: Kernels, angles: torch.dtype) -> None:
    torch.manual_seed(3)
    cosine, sine = Rotary(RotarySettings(), 64).angles(torch.arange(11)[None] * 37, angles)
    x, outer = (torch.randn(1, 11, 3, 64).to(HALF) for _ in range(2))
    wide = x.double().requires_grad_()
    turned = rotate(wide, cosine.double(), sine.double())
    [expected] = torch.autograd.grad(turned, wide, outer.double())
    own = x.clone().requires_grad_()
    made = gradients.rotated(ours, own, cosine, sine)
    [found] = torch.autograd.grad(made, own, outer)
    for one, other in ((made, turned), (found, expected)):
        # half an ulp of what comes out, and of what is kept on the way where angles are narrow
        assert torch.allclose(one.double(), other, rtol=2**-8, atol=2**-7 if angles == HALF else 2**-20)


def test_a_step_in_bfloat16_has_the_gradients_that_it_has_without_them(
    ours: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    for name in ("gated_back", "rotate"):
        kept = getattr(Kernels, name)
        monkeypatch.setattr(Kernels, name, lambda *a, kept=kept, name=name: (used.append(name), kept(*a))[1])

    def gradients_of(kind: str) -> torch.Tensor:
        monkeypatch.setenv(OFF, kind)
        forget()
        network = stirred(Llama.build(Llama.SIZES["tiny"].model_copy(update={"head_width": 32})), amount=0.1)
        ids = torch.arange(40)[None] % 250
        with torch.autocast("cpu", dtype=HALF):
            network.hidden(ids, torch.arange(40)[None], CausalAttend()).float().square().mean().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    without, having = gradients_of("0"), gradients_of("1")
    assert {"gated_back", "rotate"} == set(used)
    assert 0 < float((having - without).norm()) < 0.05 * float(without.norm())
