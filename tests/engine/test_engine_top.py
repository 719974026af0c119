"""The likeliest tokens at a place: as the whole distribution has them, whatever is beside the row or penalised."""

from __future__ import annotations

import torch
from tests.engine.engine_models import llama

from rung.engine.head import Head, Needs
from rung.engine.sampling.penalty import Penalties
from rung.engine.sampling.top import top

GENERATOR = torch.Generator().manual_seed(4)


def test_they_are_those_of_the_whole_distribution_best_first() -> None:
    logits = 3 * torch.randn(1000, generator=GENERATOR)
    found = top(logits, logits.logsumexp(0), 20)
    values, ids = logits.log_softmax(0).sort(descending=True)
    assert [token for token, _ in found] == ids[:20].tolist()
    assert torch.allclose(torch.tensor([logprob for _, logprob in found]), values[:20], atol=1e-5)
    assert top(logits, logits.logsumexp(0), 0) == ()


def test_equal_ones_come_by_id_also_where_the_list_ends() -> None:
    logits = torch.zeros(500)
    logits[[7, 300, 301]] = 2.0
    assert [token for token, _ in top(logits, logits.logsumexp(0), 6)] == [7, 300, 301, 0, 1, 2]
    assert len(top(logits[:4], logits[:4].logsumexp(0), 20)) == 4


@torch.inference_mode()
def test_a_row_has_the_same_bits_alone_and_among_others() -> None:
    made = llama()
    hidden = torch.randn((8, made.network.output_weight.shape[1]), generator=GENERATOR)

    def rows(some: torch.Tensor) -> list[tuple[tuple[int, float], ...]]:
        """Every row's likeliest tokens, from one pass of the head."""
        outcome = Head(made.network, 64).run(some, Needs(totals=True))
        assert outcome.total is not None
        return [top(outcome.logits[row], outcome.total[row], 5) for row in range(len(some))]

    assert rows(hidden)[3] == rows(hidden.flip(0))[4]


def test_a_penalty_is_undone_for_its_row_alone() -> None:
    raw = torch.randn((3, 200), generator=GENERATOR)
    seen = [[5, 5, 9], [], [5, int(raw[2].argmax())]]
    penalties, penalised = Penalties(seen, torch.tensor([1.7, 1.0, 0.6])), raw.clone()
    for start in range(0, 200, 64):
        penalties.apply(penalised[:, start : start + 64], start)
    assert not torch.equal(penalised, raw)
    for row in range(3):
        before = penalised[row].clone()
        assert torch.equal(penalties.undone(row, penalised[row]), raw[row])
        assert torch.equal(penalised[row], before), "the draw still needs the penalised ones"
