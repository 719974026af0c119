"""Prompts into the cache: what they begin with in common is computed once, and no cut and no company changes a bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.engine.engine_models import MODELS, START, Made, llama

from rung.engine.attend import Piece
from rung.engine.cache import Cache
from rung.engine.engine import Engine
from rung.engine.forward import Forward
from rung.engine.prefill import LEVEL, Prefill, Prompt
from rung.engine.settings import EngineSettings
from rung.models.network import Attend
from rung.records.contracts import Request, Sampling

WARM = Sampling(temperature=0.9, top_p=0.9, max_new_tokens=6)
CPU = torch.device("cpu")


@pytest.fixture(params=sorted(MODELS))
def made(request: pytest.FixtureRequest) -> Made:
    model: Made = MODELS[request.param]()
    return model


def ids(count: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(250), k=count))


def filled(made: Made, cuts: Sequence[int]) -> list[torch.Tensor]:
    """Keys and values of every layer after a prompt went in, cut at `cuts`."""
    cache = Cache(made.network.shape, 2, torch.float32, CPU)
    prefill, prompt = Prefill(Forward(made.network), cache, 512), Prompt(ids(cuts[-1], 1), 1)
    cache.reserve(cuts[-1])
    with torch.inference_mode():
        for begin, end in pairwise(cuts):
            prefill.compute(begin // LEVEL * LEVEL, [(prompt, Piece(1, begin, end - begin))])
    return [held[1, :, : cuts[-1]].clone() for held in (*cache.keys, *cache.values)]


def test_a_prompt_may_be_cut_anywhere(made: Made) -> None:
    whole = filled(made, [0, LEVEL, LEVEL + 40])
    for cut in (1, 5, 15, 16, 17, 33, 63):
        for later in (1, 16, 22):
            cuts = [0, cut, LEVEL, LEVEL + later, LEVEL + 40]
            assert all(torch.equal(a, b) for a, b in zip(filled(made, cuts), whole, strict=True)), cuts


def counted(made: Made) -> list[int]:
    """How many tokens every later call of the network's body is given; decode steps, a token a row, are left out."""
    honest, sizes = made.network.hidden, []

    def hidden(token_ids_BT: torch.Tensor, positions_BT: torch.Tensor, attend: Attend) -> Any:
        """The body, counted."""
        if token_ids_BT.shape[1] > 1:
            sizes.append(token_ids_BT.numel())
        return honest(token_ids_BT, positions_BT, attend)

    made.network.hidden = hidden  # type: ignore[method-assign]
    return sizes


def alone(made: Made, work: Sequence[Request]) -> list[Any]:
    engine = Engine(made, EngineSettings(num_slots=16))
    return [engine.complete([request])[0] for request in work]


def test_what_prompts_begin_with_is_computed_once(made: Made) -> None:
    head = ids(90, 2)
    work = [Request(str(i), WARM, seed=i, token_ids=(*head, *ids(7, 10 + i))) for i in range(16)]
    expected = alone(made, work)
    engine = Engine(made, EngineSettings(num_slots=16))
    engine.complete(work[:1])
    sizes = counted(made)
    assert engine.complete(work) == expected
    # the head is 64 and 26 tokens (and the start token); each tail is 6, for the last goes in with the first step
    assert sizes == [64, 48, 96]


def test_those_who_share_little_do_not_wait_for_each_other() -> None:
    made, head = llama(), ids(6, 2)
    work = [Request(str(i), WARM, seed=i, token_ids=(*head, *ids(20, 10 + i))) for i in range(3)]
    expected = alone(made, work)
    engine = Engine(made, EngineSettings(num_slots=16))
    engine.complete(work[:1])
    sizes = counted(made)
    assert engine.complete(work) == expected
    assert sizes == [80]


def test_arrivals_take_over_what_running_prompts_hold() -> None:
    """Two slots never free together: the later prompts find their common head in a slot that still runs."""
    made, head = llama(), ids(50, 2)
    lengths = (30, 3, 3, 3)
    work = [
        Request(str(i), Sampling(temperature=5.0, max_new_tokens=n), seed=i, token_ids=(*head, *ids(5, 10 + i)))
        for i, n in enumerate(lengths)
    ]
    expected = alone(made, work)
    assert [len(c.token_ids) for c in expected] == list(lengths)
    engine = Engine(made, EngineSettings(num_slots=4))
    engine.complete(work[:1])
    sizes = counted(made)
    lanes = engine.open(lambda place: False)
    jobs = engine.intake.jobs(work)
    done = []
    lanes.admit(jobs[:2])
    for job in (*jobs[2:], None):
        while len(lanes.lanes) > 1 or (job is None and lanes.lanes):
            done += lanes.step()
        if job is not None:
            lanes.admit([job])
    assert {lane.job.place: lane.completion() for lane in done} == dict(enumerate(expected))
    assert sizes[0] <= 64
    assert sizes[1:] == [16] * (len(sizes) - 1)


def test_the_start_token_alone_is_no_reason_to_wait() -> None:
    made = llama()
    engine = Engine(made, EngineSettings(num_slots=16))
    engine.complete([Request("warm", WARM, token_ids=(1, 2))])
    sizes = counted(made)
    engine.complete([Request(str(i), WARM, token_ids=ids(9, 20 + i)) for i in range(8)])
    assert START not in ids(9, 20)
    assert sizes == [80]
