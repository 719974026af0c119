"""The chunked output loss against torch's own, normalisation, schedules."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from rung.base.errors import DataError
from rung.base.lookup import part
from rung.train import normalise, output_loss
from rung.train.objectives.cross_entropy import CrossEntropy
from rung.train.schedules import learning_rate_factor


def plain(hidden, weight, targets, weights, softcap, smoothing):
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    losses = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    return (losses * weights).sum(), losses


@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("trained_weight", [False, True])
def test_values_and_gradients_equal_torchs(monkeypatch, softcap, smoothing, trained_weight) -> None:
    monkeypatch.setattr(output_loss, "_ROWS_CPU", 16)
    monkeypatch.setattr(output_loss, "_TOKENS", 5)
    torch.manual_seed(1)
    weight, targets = torch.randn(45, 8), torch.randint(0, 45, (13,))
    weights, hidden = torch.rand(13), 3 * torch.randn(13, 8)
    results = []
    for function in (plain, lambda h, w, t, u, c, s: output_loss.output_loss(h, w, t, u, softcap=c, smoothing=s)):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained_weight)
        found = function(h, w, targets, weights, softcap, smoothing)
        total, losses = found if isinstance(found, tuple) else (found.total, found.losses)
        (total * 0.7).backward()
        results.append((total.detach(), losses.detach(), h.grad, w.grad))
    for ours, theirs in zip(results[1], results[0], strict=True):
        if ours is None:
            assert theirs is None
        else:
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_large_logits_stay_finite() -> None:
    hidden = torch.full((2, 4), 200.0, requires_grad=True)
    weight = torch.tensor([[9.0] * 4, [-9.0] * 4, [0.0] * 4])
    found = output_loss.output_loss(hidden, weight, torch.tensor([0, 1]), torch.ones(2))
    found.total.backward()
    torch.testing.assert_close(found.losses, torch.tensor([0.0, 14400.0]))
    assert torch.isfinite(hidden.grad).all()


def test_low_precision_weights_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(7, 16).bfloat16(), torch.randn(5000, 16).bfloat16(), torch.arange(7)
    found = output_loss.output_loss(hidden.requires_grad_(), weight, targets, torch.ones(7))
    expected = functional.cross_entropy(hidden.float() @ weight.float().T, targets, reduction="none")
    torch.testing.assert_close(found.losses, expected.detach(), atol=0.05, rtol=0.02)
    found.total.backward()
    assert hidden.grad.dtype == torch.bfloat16


def test_memory_stays_below_that_of_the_logits() -> None:
    """Peak of the process, each way in its own process; the logits alone would be 256 MB."""
    script = """
import re, sys, torch
from pathlib import Path
from torch.nn import functional
from rung.train.output_loss import output_loss

def peak():  # of this program: getrusage would begin at the size of the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.manual_seed(0)
h, w = torch.randn(1024, 16, requires_grad=True), torch.randn(65536, 16)
t = torch.randint(0, 65536, (1024,))
output_loss(h[:8], w[:64], t[:8] % 64, torch.ones(8)).total.backward()
before = peak()
if sys.argv[1] == "plain":
    functional.cross_entropy(h @ w.T, t, reduction="sum").backward()
else:
    output_loss(h, w, t, torch.ones(1024)).total.backward()
print(peak() - before)
"""
    run = [sys.executable, "-c", script]
    grown = {
        way: int(subprocess.run([*run, way], capture_output=True, text=True, check=True).stdout) / 1024
        for way in ("plain", "chunked")
    }
    assert grown["plain"] > 400
    assert grown["chunked"] < 64, grown


def test_hand_values_of_each_option() -> None:
    hidden, weight = torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[math.log(3)], [0.0]])
    targets, counts = torch.tensor([0, 1, 1]), torch.tensor([1, 2, 2])
    right, wrong = math.log(4 / 3), math.log(4)
    for settings, expected in (
        ({}, right + 2 * wrong),
        ({"weighting": "example"}, right + wrong),
        ({"label_smoothing": 0.2}, 0.9 * right + 0.1 * wrong + 2 * (0.9 * wrong + 0.1 * right)),
    ):
        kind, chosen = part("train.objectives", {"kind": "cross_entropy", **settings})
        assert kind is CrossEntropy
        loss = kind(chosen)
        found = loss(hidden, weight, targets, loss.weights(counts))
        assert float(found.total) == pytest.approx(expected, abs=1e-6)


def test_a_step_without_targets_is_an_error() -> None:
    with pytest.raises(DataError, match="no trained token"):
        normalise.global_weight([0.0, 0.0])


def test_two_ranks_with_uneven_tokens_count_every_token_once(tmp_path) -> None:
    script = """
import json, sys, torch, torch.distributed as dist
from rung.train.normalise import global_sum, global_weight, loss_divisor
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
weight = torch.tensor(2.0, requires_grad=True)
data = [torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([10.0])][rank]
total = global_weight([float(len(data))])
((weight * data).sum() / loss_divisor(total)).backward()
dist.all_reduce(weight.grad)
if rank == 0:
    print(json.dumps([total, float(weight.grad) / 2]))
dist.destroy_process_group()
"""
    store = str(tmp_path / "store")
    ranks = [
        subprocess.Popen([sys.executable, "-c", script, str(r), store], stdout=subprocess.PIPE, text=True)
        for r in range(2)
    ]
    out = [r.communicate(timeout=120)[0] for r in ranks]
    assert json.loads(out[0].strip().splitlines()[-1]) == pytest.approx([6.0, 25 / 6])


def test_schedules_equal_their_formulas() -> None:
    warm = [learning_rate_factor("cosine", s, 100, 10) for s in range(10)]
    assert warm == pytest.approx([(s + 1) / 10 for s in range(10)])
    for step in range(10, 101):
        share = (step - 10) / 90
        assert learning_rate_factor("linear", step, 100, 10) == pytest.approx(1 - share)
        cosine = 0.5 * (1 + math.cos(math.pi * share))
        assert learning_rate_factor("cosine", step, 100, 10) == pytest.approx(cosine)
        assert learning_rate_factor("constant", step, 100, 10) == 1.0
    assert learning_rate_factor("linear", 0, 1, 0) == 1.0
