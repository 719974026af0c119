"""The sampler against the reference library's logits processors and a full sort."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tests.engine.engine_models import llama

from rung.engine.head import Head, Needs
from rung.engine.sampling.draw import DrawSettings, draw
from rung.engine.sampling.penalty import Penalties

SIZE = 1000
GRID = 4000


def expected(logits: torch.Tensor, seen: list[int], **how: Any) -> torch.Tensor:
    """The distribution after the reference library's processors, in its order."""
    chain = transformers.LogitsProcessorList()
    if how.get("penalty", 1.0) != 1.0:
        chain.append(transformers.RepetitionPenaltyLogitsProcessor(how["penalty"]))
    chain.append(transformers.TemperatureLogitsWarper(float(how.get("temperature", 1.0))))
    if how.get("top_k", 0):
        chain.append(transformers.TopKLogitsWarper(how["top_k"]))
    if how.get("top_p", 1.0) < 1.0:
        chain.append(transformers.TopPLogitsWarper(how["top_p"]))
    return chain(torch.tensor([seen]), logits[None].clone())[0].softmax(-1)


def drawn(logits: torch.Tensor, seen: list[int], num_candidates: int = 16, **how: Any) -> tuple[Any, Any]:
    """Draws for an even grid of uniform numbers, so their counts are the distribution."""
    rows = logits.expand(GRID, -1).clone()
    if how.get("penalty", 1.0) != 1.0:
        Penalties([seen] * GRID, torch.full((GRID,), how["penalty"])).apply(rows, 0)
    inverse = 1.0 / how.get("temperature", 1.0)
    settings = DrawSettings(
        torch.full((GRID,), inverse),
        torch.full((GRID,), how.get("top_p", 1.0)),
        torch.full((GRID,), how.get("top_k", 0)),
    )
    uniform = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    found = draw(rows, (rows * inverse).logsumexp(1), settings, uniform, num_candidates)
    return found.token, found.logprob


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.7},
        {"top_p": 0.9},
        {"top_k": 40},
        {"temperature": 1.4, "top_p": 0.95},
        {"temperature": 0.8, "top_p": 0.7, "top_k": 25},
        {"penalty": 1.3, "top_p": 0.9},
        {"penalty": 0.7, "temperature": 1.2, "top_k": 300, "top_p": 0.99},
        {"top_p": 1e-6},
        {"top_k": 1},
        {"top_k": 5000},
    ],
    ids=str,
)
@pytest.mark.parametrize("spread", [0.5, 4.0], ids=["flat", "steep"])
def test_draws_follow_the_reference_distribution(how: dict[str, Any], spread: float) -> None:
    logits = spread * torch.randn(SIZE, generator=torch.Generator().manual_seed(2))
    seen = [3, 3, 500, 999, int(logits.argmax())]
    probability = expected(logits, seen, **how)
    token, logprob = drawn(logits, seen, **how)
    assert bool((probability[token] > 0).all())
    assert torch.allclose(logprob, probability[token].log(), atol=2e-5)
    counts = torch.bincount(token, minlength=SIZE) / GRID
    assert float((counts - probability).abs().max()) < 2.0 / GRID


def test_a_nucleus_beyond_the_candidates_is_extended_exactly() -> None:
    logits = torch.zeros(SIZE)  # flat: a nucleus of 900 equal tokens, the lowest ids
    token, logprob = drawn(logits, [], num_candidates=16, top_p=0.8995)
    assert set(token.tolist()) == set(range(900))
    assert torch.allclose(logprob, torch.full_like(logprob, 1 / 900).log(), atol=1e-4)


def test_the_first_candidates_never_change_the_draw() -> None:
    logits = torch.randn(SIZE, generator=torch.Generator().manual_seed(4)).mul(2).round()  # many equal logits
    for how in ({"top_p": 0.9}, {"top_k": 33}, {}):
        few, many = (drawn(logits, [], num_candidates=n, **how) for n in (8, SIZE))
        assert torch.equal(few[0], many[0])


def test_the_head_in_chunks_equals_the_whole() -> None:
    network = llama().network
    hidden = torch.randn(6, network.shape.width, generator=torch.Generator().manual_seed(1))
    logits = (hidden @ network.output_weight.T).detach()
    seen = [[1, 1, 2], [299], [], [0, 64, 128], [5], [150]]
    penalty = torch.full((6,), 1.7)
    with torch.inference_mode():
        penalties = Penalties(seen, penalty)
        needs = Needs(totals=True, entropies=True, times=torch.full((6,), 1.3), penalties=penalties)
        found = Head(network, 64).run(hidden, needs)
    spread = logits.log_softmax(-1)
    lowered = logits.clone()
    for row, ids in enumerate(seen):
        for token in set(ids):
            lowered[row, token] = logits[row, token] / 1.7 if logits[row, token] > 0 else logits[row, token] * 1.7
    assert torch.allclose(found.logits, lowered, atol=1e-5)
    assert found.total is not None
    assert found.entropy is not None
    assert found.sampling_total is not None
    assert torch.allclose(found.total, logits.logsumexp(-1), atol=1e-5)
    assert torch.allclose(found.entropy, -(spread.exp() * spread).sum(-1), atol=1e-4)
    assert torch.allclose(found.sampling_total, (lowered * 1.3).logsumexp(-1), atol=1e-5)
    assert torch.equal(found.best, lowered.argmax(-1))
    picked = torch.tensor([2, 299, 7, 128, 6, 150])
    kept = penalties.raw(picked, found.logits.gather(1, picked[:, None])[:, 0])
    assert torch.allclose(kept, logits.gather(1, picked[:, None])[:, 0], atol=1e-5)


def test_equal_best_logits_give_the_first() -> None:
    network = llama().network
    with torch.no_grad():
        network.output_weight.zero_()
        network.output_weight[[70, 20, 299, 21]] = 1.0
    with torch.inference_mode():
        found = Head(network, 64).run(torch.ones(5, network.shape.width), Needs())
    assert found.best.tolist() == [20] * 5
