"""Text that a constraint forces is written ahead of the model: fewer steps, right log-probabilities, the same answer
in any company."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from tests.engine.engine_models import MODELS, Made, llama

from rung.engine.constraints.compiling import Compiler
from rung.engine.constraints.jump import Jump
from rung.engine.constraints.vocabulary import read_vocabulary
from rung.engine.engine import Engine
from rung.engine.lane import Lane
from rung.engine.settings import EngineSettings
from rung.records.contracts import Request, Sampling

LONG = "the quick brown fox jumps over the lazy dog and then sleeps"
RULE = {"regex": f"(A{LONG}|B{LONG})[0-9]{{3}}"}
WARM = Sampling(temperature=1.5, max_new_tokens=200)


@pytest.fixture(params=sorted(MODELS))
def made(request: pytest.FixtureRequest) -> Made:
    model: Made = MODELS[request.param]()
    return model


def work(count: int) -> list[Request]:
    return [Request(str(i), WARM, seed=i, text="Say it: ", constraint=RULE) for i in range(count)]


def test_forced_text_takes_fewer_steps(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(made, EngineSettings(num_slots=16))
    engine.complete(work(1))

    def steps() -> tuple[int, Any]:
        before = engine.num_forwards
        [done] = engine.complete(work(1))
        return engine.num_forwards - before, done

    ahead, done = steps()
    assert done.text[1:-3] == LONG
    with monkeypatch.context() as changed:
        changed.setattr(Lane, "run_ahead", lambda lane: None)
        one_by_one, slow = steps()
    assert slow.text[1:-3] == LONG
    assert ahead < one_by_one / 3
    assert ahead < len(done.token_ids) / 3


def test_log_probabilities_are_those_of_the_model_and_of_what_was_open(made: Made) -> None:
    engine = Engine(made, EngineSettings(num_slots=16))
    [done] = engine.complete(work(1))
    [scored] = engine.score(["Say it: "], [done.text])
    assert list(scored.token_ids) == list(done.token_ids[: len(scored.token_ids)])
    for own, raw in zip(scored.logprobs, done.raw_logprobs, strict=False):
        assert math.isclose(own, raw, abs_tol=1e-4)
    assert len(done.raw_logprobs) == len(done.logprobs) == len(done.entropies) == len(done.token_ids)
    assert sum(value == 0.0 for value in done.logprobs) > 10
    assert done.logprobs[0] < 0.0


def test_it_says_the_same_alone_and_where_no_rows_are_left(made: Made) -> None:
    many = Engine(made, EngineSettings(num_slots=16))
    few = Engine(made, EngineSettings(num_slots=4))
    expected = [many.complete([request])[0] for request in work(20)]
    assert many.complete(work(20)) == expected
    mixed = [replace(request, constraint=None) if int(request.id) % 3 else request for request in work(20)]
    assert [c for c in few.complete(mixed) if int(c.id) % 3 == 0] == expected[::3]


def test_close_to_the_limit_it_goes_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    honest = Lane.run_ahead

    def watched(lane: Lane) -> None:
        before = len(lane.token_ids)
        honest(lane)
        taken.append(len(lane.token_ids) - before)

    monkeypatch.setattr(Lane, "run_ahead", watched)
    engine = Engine(llama(), EngineSettings(num_slots=4))
    needed = engine.intake.jobs(work(1))[0].constraint
    assert needed is not None
    least = needed.start().shortest()
    assert least is not None
    [done] = engine.complete([replace(work(1)[0], sampling=replace(WARM, max_new_tokens=least))])
    assert done.complete
    assert sum(taken) == 0


def test_only_what_the_tokenizer_spells_alike_is_written(made: Made) -> None:
    vocabulary = read_vocabulary(made.tokenizer, made.network.shape.vocabulary)
    jump = Jump(made.tokenizer, vocabulary)
    ids = jump.tokens(LONG.encode())
    written = b"".join(vocabulary.tokens[token] or b"" for token in ids)
    assert LONG.encode().startswith(written)
    assert 0 < len(written) < len(LONG)
    assert jump.tokens(b"") == ()
    assert jump.tokens(b"\xc3") == ()
    assert Compiler(made.tokenizer, made.network.shape.vocabulary).jump().tokens(LONG.encode()) == ids
