"""The engine while it runs: what comes when, beside whom and after which mishap changes no answer."""

from __future__ import annotations

import gc
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.engine.engine_models import END, MODELS, START, Made, llama, wrapped
from tests.engine.engine_online_models import Keep, endless

from rung.base.errors import DataError, ModelError, RungError
from rung.base.events import Events
from rung.engine.batch import Batch
from rung.engine.engine import Engine
from rung.engine.invariance import Invariance
from rung.engine.jobs import Job
from rung.engine.lane import Lane
from rung.engine.online import Online, OnlineSettings
from rung.engine.score import Pair
from rung.engine.settings import EngineSettings
from rung.engine.tickets import Expired, News, QueueFull, Stopping
from rung.models.load import load
from rung.records.contracts import Completion, Request, Sampling

WARM = Sampling(temperature=0.9, top_p=0.9, max_new_tokens=12)
LONG = replace(WARM, max_new_tokens=400)
PATIENCE = 30.0


class Client:
    """Submits, and gathers what is told."""

    def __init__(self, online: Online, requests: list[Request], seconds: float = PATIENCE, stream: bool = True) -> None:
        self.news: queue.Queue[tuple[int, News]] = queue.Queue()
        self.pieces: list[list[News]] = [[] for _ in requests]
        self.tickets = online.submit(
            requests, lambda number, news: self.news.put((number, news)), seconds=seconds, stream=stream
        )

    def step(self) -> News:
        number, news = self.news.get(timeout=PATIENCE)
        self.pieces[number].append(news)
        return news

    def ends(self) -> list[Completion | RungError]:
        """How all of them ended; the pieces of each join to its text."""
        while not all(pieces and (pieces[-1].completion or pieces[-1].error) for pieces in self.pieces):
            self.step()
        found: list[Completion | RungError] = []
        for pieces in self.pieces:
            last = pieces[-1]
            if last.completion is not None:
                assert "".join(piece.text for piece in pieces) == last.completion.text
                found.append(last.completion)
            else:
                assert last.error is not None
                found.append(last.error)
        return found


@contextmanager
def serving(
    made: Made | Callable[[], Made], slots: int = 4, waiting: int = 64, sink: Keep | None = None
) -> Iterator[Online]:
    events = Events([sink] if sink else [])
    make = made if callable(made) else lambda: made
    online = Online(
        lambda: Engine(make(), EngineSettings(num_slots=slots), events=events),
        OnlineSettings(max_waiting=waiting),
        events,
    )
    online.start()
    try:
        yield online
    finally:
        online.close(0.0)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def requests(count: int, sampling: Sampling = WARM) -> list[Request]:
    return [
        Request(str(i), replace(sampling, max_new_tokens=5 + 7 * i % 19), seed=i, text="abc def"[: 1 + i % 7] * (1 + i))
        for i in range(count)
    ]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_whenever_requests_come_the_answers_are_the_offline_ones(name: str) -> None:
    work = [replace(r, sampling=replace(r.sampling, temperature=0.0)) if i % 3 == 0 else r
            for i, r in enumerate(requests(14))]  # fmt: skip
    expected = {c.id: c for c in Engine(MODELS[name]()).complete(work)}
    found: list[Completion | RungError] = []
    with serving(MODELS[name]()) as online:

        def client(mine: list[Request]) -> None:
            for one in range(0, len(mine), 2):
                answers = Client(online, mine[one : one + 2])
                answers.step()
                found.extend(answers.ends())

        threads = [threading.Thread(target=client, args=(work[i::3],)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        until(lambda: online.figures.num_tokens == sum(len(c.token_ids) for c in expected.values()))
    assert {c.id: c for c in found if isinstance(c, Completion)} == expected


def test_late_requests_join_those_that_run(slow: threading.Event) -> None:
    order: queue.Queue[str] = queue.Queue()

    def listen(name: str) -> Callable[[int, News], None]:
        return lambda _, news: order.put(f"{name} ends" if news.completion else name)

    with serving(endless()) as online:
        online.submit([Request("a", LONG, text="x")], listen("a"), seconds=PATIENCE)
        assert order.get(timeout=PATIENCE) == "a"
        online.submit([Request("b", replace(WARM, max_new_tokens=3), text="y")], listen("b"), seconds=PATIENCE)
        slow.set()
        told: list[str] = []
        while "a ends" not in told:
            told.append(order.get(timeout=PATIENCE))
    assert told.index("b ends") < told.index("a ends")


def test_no_part_of_a_stop_string_is_streamed_and_tokens_spell_the_text() -> None:
    free = Engine(llama()).complete([Request("a", replace(WARM, max_new_tokens=60), seed=3, text="hello")])[0]
    stop = free.text[9:13]
    request = Request("a", replace(WARM, max_new_tokens=60, stop=("zz", stop)), seed=3, text="hello")
    with serving(llama()) as online:
        client = Client(online, [request])
        [done] = client.ends()
    assert isinstance(done, Completion)
    assert done.finish_reason == "stop"
    assert done.text == free.text[: free.text.find(stop)]
    assert stop not in "".join(news.text for news in client.pieces[0])
    tokens = [token for news in client.pieces[0] for token in news.tokens]
    assert "".join(token.text for token in tokens) == done.text
    assert [token.id for token in tokens] == list(done.token_ids[: len(tokens)])
    assert [token.logprob for token in tokens] == list(done.raw_logprobs[: len(tokens)])
    assert all(done.text[t.offset :].startswith(t.text) for t in tokens)


def test_a_token_that_may_be_half_a_stop_string_waits_for_its_other_half() -> None:
    tokenizer = load("tiny:llama", clean=False, strict=False).tokenizer
    [pair], [other] = tokenizer.encode(" b"), tokenizer.encode("z")
    how = Sampling(max_new_tokens=9, stop=("bc",))
    lane = Lane(Job(0, Request("a", how, token_ids=(other,)), (other,)), tokenizer)
    lane.take(pair)
    assert lane.shown() == " "
    assert lane.tokens(0, lane.shown()) == ()
    lane.take(other)
    assert lane.shown() == " bz"
    assert [(token.text, token.offset) for token in lane.tokens(0, lane.shown())] == [(" b", 0), ("z", 2)]


def test_only_the_end_is_told_to_those_who_do_not_stream() -> None:
    with serving(llama()) as online:
        client = Client(online, requests(3), stream=False)
        assert all(isinstance(end, Completion) for end in client.ends())
    assert [len(pieces) for pieces in client.pieces] == [1, 1, 1]


def test_a_cancelled_request_frees_its_slot(slow: threading.Event) -> None:
    with serving(endless()) as online:
        gone = Client(online, [Request(str(i), LONG, seed=i, text="x") for i in range(4)])
        gone.step()
        waits = Client(online, [Request("w", replace(WARM, max_new_tokens=3), text="y")])
        online.cancel(gone.tickets[:1])
        [done] = waits.ends()
        assert done == Engine(endless()).complete([Request("w", replace(WARM, max_new_tokens=3), text="y")])[0]
        online.cancel(gone.tickets)
        until(lambda: online.figures.num_running == 0)


def test_what_takes_too_long_ends_by_name_while_others_go_on(slow: threading.Event) -> None:
    with serving(endless()) as online:
        late = Client(online, [Request("s", LONG, text="x")], seconds=0.02)
        other = Client(online, requests(2))
        assert isinstance(late.ends()[0], Expired)
        slow.set()
        assert all(isinstance(end, Completion) for end in other.ends())
        until(lambda: online.figures.num_running == 0)


def test_a_full_queue_takes_all_of_a_request_or_nothing(slow: threading.Event) -> None:
    with serving(endless(), slots=4, waiting=1) as online:
        running = Client(online, [Request(str(i), LONG, seed=i, text="x") for i in range(4)])
        running.step()
        with pytest.raises(QueueFull, match="wait"):
            Client(online, requests(2))
        assert online.figures.num_waiting == 0
        waits = Client(online, requests(1))
        with pytest.raises(QueueFull):
            online.score([Pair((START, 1), (2,))])
        online.cancel(running.tickets)
        slow.set()
        assert isinstance(waits.ends()[0], Completion)


def test_bad_requests_are_refused_where_they_are_made() -> None:
    with serving(llama()) as online, pytest.raises(DataError, match="512"):
        Client(online, [Request("r", WARM, token_ids=(1,) * 600)])


def test_scores_come_between_steps(slow: threading.Event) -> None:
    pairs = [Pair((START, 65), (66, 67, 68)), Pair((START,), (70,))]
    expected = Engine(llama()).score_pairs(pairs)
    with serving(endless()) as online:
        running = Client(online, [Request("a", LONG, text="x")])
        running.step()
        beside: list[int] = []
        score = online.score(pairs)
        score.add_done_callback(lambda _: beside.append(online.figures.num_running))
        assert score.result(PATIENCE) == expected
        until(lambda: beside == [1])
        online.cancel(running.tickets)


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int, after: int = 3) -> list[int]:
    """Steps of more than `most` lanes fail from the `after`-th on; the widths that were tried are returned."""
    real, widths = Batch.step, list[int]()

    def step(self: Batch) -> Any:
        widths.append(len(self.lanes))
        if len(widths) > after and len(self.lanes) > most:
            raise torch.OutOfMemoryError("simulated")
        return real(self)

    monkeypatch.setattr(Batch, "step", step)
    return widths


def test_lack_of_memory_halves_the_slots_and_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    work = [replace(r, sampling=replace(r.sampling, max_new_tokens=12)) for r in requests(16)]
    expected = Engine(llama(), EngineSettings(num_slots=16)).complete(work)
    widths, sink = short_of_memory(monkeypatch, most=4), Keep()
    with serving(llama(), slots=16, sink=sink) as online:
        assert Client(online, work).ends() == expected
        assert online.figures.num_slots == 4
        assert online.figures.num_restarts == 16 + 8
    assert max(widths[3:4]) == 16
    assert max(widths[6:]) <= 4
    said = [event["message"] for event in sink.events if event["kind"] == "degraded"]
    assert [("16" in line and "8" in line, "4" in line) for line in said] == [(True, False), (False, True)]


def test_where_few_rows_have_other_bits_more_rows_are_computed_but_no_more_sequences_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = requests(10)
    expected = Engine(llama()).complete(work)
    monkeypatch.setattr("rung.engine.engine.invariance", lambda *_: Invariance((16,), (4, 8), exact=True, step=16))
    widths = short_of_memory(monkeypatch, most=4, after=1)
    with serving(llama(), slots=8) as online:
        assert Client(online, work).ends() == expected
        assert online.figures.num_slots == 4
    assert (widths[:2], max(widths[2:])) == ([8, 8], 4)


def test_offline_too_and_what_was_finished_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    work = [replace(r, sampling=replace(r.sampling, max_new_tokens=2 + i)) for i, r in enumerate(requests(8))]
    expected = Engine(llama()).complete(work)
    widths = short_of_memory(monkeypatch, most=4)
    assert Engine(llama(), EngineSettings(num_slots=8)).complete(work) == expected
    assert max(widths[4:]) <= 4


def test_lack_of_memory_in_the_smallest_batch_fails_its_requests_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, most=2, after=0)
    with serving(llama(), slots=4) as online:
        failed = Client(online, requests(3)).ends()
        assert all(isinstance(end, ModelError) and "memory" in end.message for end in failed)
        assert isinstance(Client(online, requests(1)).ends()[0], Completion)
    with pytest.raises(torch.OutOfMemoryError):
        Engine(llama(), EngineSettings(num_slots=4)).complete(requests(3))


def test_a_defect_fails_what_ran_and_the_rest_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    sink, real = Keep(), Batch.step

    def step(self: Batch) -> Any:
        monkeypatch.setattr(Batch, "step", real)
        raise ZeroDivisionError("planted hunter2")

    monkeypatch.setattr(Batch, "step", step)
    with serving(llama(), sink=sink) as online:
        [failed] = Client(online, requests(1)).ends()
        assert isinstance(failed, ModelError)
        assert "hunter2" not in str(failed)
        assert isinstance(Client(online, requests(1)).ends()[0], Completion)
    assert any("ZeroDivisionError" in event.get("trace", "") for event in sink.events)


def test_a_release_waits_for_what_runs_frees_the_weights_and_the_next_request_loads_again() -> None:
    alive: list[weakref.ref[Any]] = []

    def make() -> Made:
        made = llama()
        alive.append(weakref.ref(made.network))
        return made

    sink = Keep()
    with serving(make, sink=sink) as online:
        running = Client(online, requests(2))
        running.step()
        released = online.release()
        assert all(isinstance(end, Completion) for end in running.ends())
        assert released.result(PATIENCE) >= 0
        gc.collect()
        assert alive[0]() is None
        assert (online.figures.loaded, online.figures.memory.weights) == (False, 0)
        assert Client(online, requests(2)).ends() == Engine(llama()).complete(requests(2))
        assert (online.figures.num_loads, online.figures.loaded) == (2, True)
        assert online.figures.memory.weights > 0
        assert online.figures.memory.cache > 0
        assert online.figures.load_seconds > 0
    assert sum("loaded" in event["message"] for event in sink.events if event["kind"] == "log") == 2


def test_two_sessions_of_requests_load_the_weights_once() -> None:
    loads: list[int] = []

    def make() -> Made:
        loads.append(1)
        return llama()

    with serving(make) as online:
        Client(online, requests(2)).ends()
        Client(online, requests(2)).ends()
    assert len(loads) == 1


def test_closing_lets_work_end_within_its_time_and_names_what_was_given_up(slow: threading.Event) -> None:
    with serving(endless()) as online:
        client = Client(online, requests(3))
        slow.set()
        assert online.close(PATIENCE) == 0
        assert all(isinstance(end, Completion) for end in client.ends())
        with pytest.raises(Stopping):
            Client(online, requests(1))
    slow.clear()
    with serving(endless()) as online:
        long = Client(online, [Request("a", LONG, text="x")])
        long.step()
        assert online.close(0.0) == 1
        assert isinstance(long.ends()[0], Stopping)
        assert not online.alive


def test_a_wrapped_network_serves_one_after_another_and_can_be_stopped_midway() -> None:
    with serving(wrapped()) as online:
        assert Client(online, requests(3)).ends() == Engine(wrapped()).complete(requests(3))
        long = Client(online, [Request("a", LONG, text="x")])
        until(lambda: online.figures.num_running == 1)
        online.cancel(long.tickets)
        until(lambda: online.figures.num_running == 0)
        assert isinstance(Client(online, [Request("s", LONG, text="x")], seconds=0.02).ends()[0], Expired)


def test_end_tokens_are_no_part_of_the_text_but_counted() -> None:
    made = llama()
    with torch.no_grad():
        made.network.output_weight[END] *= 6
    work = [Request(str(i), replace(WARM, max_new_tokens=60), seed=i, text="x") for i in range(6)]
    with serving(made) as online:
        client = Client(online, work)
        done = [end for end in client.ends() if isinstance(end, Completion)]
    assert "eos" in {end.finish_reason for end in done}
    for end, pieces in zip(done, client.pieces, strict=True):
        tokens = [token for news in pieces for token in news.tokens]
        assert len(tokens) == len(end.token_ids) - (end.finish_reason == "eos")
