"""Log-probabilities of the distribution sampled from, in chunks, against all logits at once."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from rung.base.errors import DataError
from rung.records.rollout import Support
from rung.train import output_loss
from rung.train.output_loss import sampling_logprobs

SIZE, WIDTH, NUM = 45, 8, 23


def dense(hidden, weight, targets, *, softcap, inverse_temperature, supports):
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits * torch.as_tensor(inverse_temperature).reshape(-1, 1)
    if supports:
        masks = [np.ones(len(weight), bool) if s is None else s.mask(len(weight)) for s in supports]
        logits = logits.masked_fill(~torch.from_numpy(np.stack(masks)), -torch.inf)
    return logits.log_softmax(1)[range(len(targets)), targets]


def supports_of(targets: torch.Tensor, sizes: list[int | None], vocabulary: int = SIZE) -> list[Support | None]:
    draw, found = np.random.default_rng(0), []
    for number, target in enumerate(targets.tolist()):
        size = sizes[number % len(sizes)]
        others = draw.permutation([i for i in range(vocabulary) if i != target])
        found.append(None if size is None else Support.of_ids([target, *others[: size - 1]], vocabulary))
    return found


SUPPORTS: dict[str, list[int | None]] = {
    "none": [], "few": [3, 2], "many": [30, 44], "mixed": [None, 1, 2, 9, 40], "alone": [1], "all open": [None],
}  # fmt: skip


@pytest.mark.parametrize("trained_weight", [False, True])
@pytest.mark.parametrize("name", SUPPORTS)
@pytest.mark.parametrize("temperature", ["one", "number", "each"])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_values_and_gradients_equal_all_logits_at_once(monkeypatch, softcap, temperature, name, trained_weight) -> None:
    monkeypatch.setattr(output_loss, "_ROWS_CPU", 16)
    monkeypatch.setattr(output_loss, "_TOKENS", 5)
    torch.manual_seed(1)
    weight, targets, hidden = torch.randn(SIZE, WIDTH), torch.randint(0, SIZE, (NUM,)), torch.randn(NUM, WIDTH)
    each = torch.rand(NUM) + 0.5
    how = {
        "softcap": softcap,
        "inverse_temperature": {"one": 1.0, "number": 1 / 0.7, "each": each}[temperature],
        "supports": supports_of(targets, SUPPORTS[name]) if SUPPORTS[name] else (),
    }
    results = []
    for function in (dense, sampling_logprobs):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained_weight)
        found = function(h, w, targets, **how)
        (found * torch.linspace(-1, 2, NUM)).sum().backward()
        results.append([found.detach(), h.grad, *([w.grad] if trained_weight else [])])
    for ours, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-6)


def test_a_token_without_a_choice_has_log_probability_zero_exactly() -> None:
    hidden, weight, targets = torch.randn(4, 8), torch.randn(45, 8), torch.tensor([3, 9, 3, 1])
    hidden.requires_grad_()
    found = sampling_logprobs(hidden, weight, targets, supports=supports_of(targets, [1]))
    assert found.tolist() == [0.0] * 4
    found.sum().backward()
    assert float(hidden.grad.abs().max()) == 0.0


def test_few_supports_cost_few_rows_of_the_weight(monkeypatch) -> None:
    read = []
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, **how: (read.append(len(a)), mm(a, b, **how))[1])
    targets = torch.randint(0, 5000, (40,))
    hidden, weight = torch.randn(40, WIDTH), torch.randn(5000, WIDTH)
    supports = supports_of(targets, [3], 5000)
    sampling_logprobs(hidden, weight, targets, supports=supports)
    assert sum(read) == len({token for support in supports for token in support.ids()})


def test_a_target_outside_its_support_is_refused() -> None:
    hidden, weight = torch.randn(2, WIDTH), torch.randn(SIZE, WIDTH)
    support = Support.of_ids([1, 2], SIZE)
    with pytest.raises(DataError, match=r"target 1 \(id 5\) is outside"):
        sampling_logprobs(hidden, weight, torch.tensor([1, 5]), supports=[None, support])
    with pytest.raises(DataError, match="1 supports for 2 targets"):
        sampling_logprobs(hidden, weight, torch.tensor([1, 2]), supports=[support])


def test_memory_stays_far_below_that_of_the_logits() -> None:
    """The logits alone would be 512 MB; half the vocabulary at every place may be drawn."""
    script = """
import re, numpy as np, torch
from pathlib import Path
from rung.records.rollout import Support
from rung.train.output_loss import sampling_logprobs

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

hidden, weight = torch.randn(2048, 64, requires_grad=True), torch.randn(65536, 64, requires_grad=True)
support = Support.of_mask(np.arange(65536) % 2 == 0)
targets = torch.zeros(2048, dtype=torch.long)
sampling_logprobs(hidden[:8], weight, targets[:8], supports=[support] * 8).sum().backward()
before = peak()
sampling_logprobs(hidden, weight, targets, inverse_temperature=1.4, supports=[support] * 2048).sum().backward()
print("PEAK", (peak() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(re.search(r"PEAK (\d+)", done.stdout)[1]) < 150


@pytest.mark.parametrize("name", ["none", "mixed"])
def test_under_autocast_they_are_those_of_rounded_products(name: str) -> None:
    """Of the same logits as a linear layer's under autocast; `dense` is given those of rounded operands."""
    torch.manual_seed(1)
    weight, targets, hidden = torch.randn(SIZE, 64), torch.randint(0, SIZE, (NUM,)), torch.randn(NUM, 64) / 4
    supports = supports_of(targets, SUPPORTS[name]) if SUPPORTS[name] else ()
    results = []
    how = {"softcap": 0.0, "inverse_temperature": 1.0, "supports": supports}
    for function, narrow in ((sampling_logprobs, True), (dense, False), (sampling_logprobs, False)):
        h, w = (x.to(torch.bfloat16).float() if function is dense else x.clone() for x in (hidden, weight))
        h.requires_grad_(), w.requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            found = function(h, w, targets, **how)
        found.sum().backward()
        results.append((found.detach(), h.grad, w.grad))
    (found, *narrow_grads), (rounded, *expected), (exact, *_) = results
    assert float((found - rounded).abs().max()) < 0.05  # the logits' own rounding: half of 2 ** -4 up to 16
    assert float((found - exact).abs().max()) > 0.001
    for one, other in zip(narrow_grads, expected, strict=True):
        assert 0 < float((one - other).norm()) < 0.02 * float(other.norm())
