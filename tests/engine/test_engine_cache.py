"""The cache's memory: what it takes is what is reported, and a limit holds without changing an answer."""

from __future__ import annotations

import queue
import random
from dataclasses import replace

import pytest
import torch
from tests.engine.engine_models import llama
from tests.engine.engine_online_models import endless

from rung.base.errors import DataError, SettingsError
from rung.base.events import Events
from rung.engine import engine as engine_module
from rung.engine.cache import BLOCK, slot_bytes
from rung.engine.engine import Engine
from rung.engine.online import Online, OnlineSettings
from rung.engine.settings import EngineSettings
from rung.engine.store import Need, Store
from rung.engine.tickets import News
from rung.records.contracts import Request, Sampling

WARM = Sampling(temperature=0.9, top_p=0.9, max_new_tokens=12)


def long_and_short(count: int = 24) -> list[Request]:
    """Prompts of 3 to 400 tokens, answers of 1 to 60."""
    chance = random.Random(5)
    return [
        Request(
            str(i),
            replace(WARM, max_new_tokens=chance.randint(1, 60)),
            seed=i,
            token_ids=tuple(chance.choices(range(250), k=chance.choice((3, 20, 250, 400)))),
        )
        for i in range(count)
    ]


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of every shape that a cache of the engine had."""
    seen: list[int] = []

    class Watched(Store):
        """A store that tells how large it became."""

        def resize(self, need: Need) -> None:
            """As the store does; what it holds then is noted."""
            super().resize(need)
            held = [layer for cache in (self.own, self.prefixes) for layer in (*cache.keys, *cache.values)]
            seen.append(sum(layer.nbytes for layer in held))
            assert seen[-1] == self.num_bytes

    monkeypatch.setattr(engine_module, "Store", Watched)
    return seen


def test_what_it_takes_is_what_is_reported(caches: list[int]) -> None:
    engine = Engine(llama())
    engine.complete(long_and_short(4))
    assert engine.memory().cache == caches[-1] > 0
    engine.release()
    assert engine.memory().cache == 0


@pytest.mark.parametrize("num_slots", [16, 32, 64])
def test_under_a_limit_the_least_advanced_begin_again_and_give_the_same(num_slots: int, caches: list[int]) -> None:
    made, work, mebibytes = llama(), long_and_short(70), 1
    free = Engine(made, EngineSettings(num_slots=num_slots)).complete(work)
    wanted = max(caches)
    del caches[:]
    engine = Engine(made, EngineSettings(num_slots=num_slots, cache_mebibytes=mebibytes))
    assert engine.complete(work) == free
    assert max(caches) <= mebibytes << 20 < wanted


def test_the_batch_says_who_was_sent_back() -> None:
    made = llama()
    engine = Engine(made, EngineSettings(num_slots=16, cache_mebibytes=1))
    jobs = engine.intake.jobs([replace(r, sampling=replace(WARM, temperature=5.0)) for r in long_and_short(60)])
    long_ones = [job for job in jobs if len(job.prompt_ids) > 300][:12]
    lanes = engine.open(lambda place: False)
    lanes.admit(long_ones)
    assert [job.place for job in lanes.taken_back()] == [job.place for job in long_ones[len(lanes.lanes) :]]
    assert engine.invariance is not None
    rows = {n: min(count for count in engine.invariance.counts if count >= n) for n in range(1, 13)}
    # prompts of 512 positions each, and rows of 64, in room for 4,096: seven where eight rows have the bits of sixteen
    assert len(lanes.lanes) == max(n for n, num_rows in rows.items() if 512 * n + 64 * num_rows <= 4096)
    assert lanes.taken_back() == []


def test_a_request_that_no_limit_can_hold_is_refused_before_any_work() -> None:
    made = llama()
    least = -(-5 * BLOCK * slot_bytes(made.network.shape, torch.float32) // 2**20)
    engine = Engine(made, EngineSettings(num_slots=16, cache_mebibytes=least))
    with pytest.raises(DataError, match="do not fit the limit"):
        engine.complete([Request("long", WARM, token_ids=tuple([1] * 500))])
    assert engine.num_forwards == 0


def test_a_limit_below_the_smallest_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "slot_bytes", lambda shape, dtype: 10_000)
    monkeypatch.setattr(engine_module, "longest_within", lambda *sizes: 0)
    with pytest.raises(SettingsError, match="1 MiB do not hold") as caught:
        Engine(llama(), EngineSettings(cache_mebibytes=1))
    assert "at least 7" in (caught.value.hint or "")


def test_a_running_engine_lets_those_wait_that_a_full_cache_sent_back() -> None:
    work = [Request(str(i), replace(WARM, max_new_tokens=300), seed=i, text="abc"[: 1 + i % 3]) for i in range(16)]
    expected = Engine(endless(), EngineSettings(num_slots=16)).complete(work)
    told: queue.Queue[tuple[int, News]] = queue.Queue()
    online = Online(
        lambda: Engine(endless(), EngineSettings(num_slots=16, cache_mebibytes=1)), OnlineSettings(), Events()
    )
    online.start()
    try:
        online.submit(work, lambda number, news: told.put((number, news)), seconds=60.0, stream=False)
        answers = dict(told.get(timeout=60.0) for _ in work)
        assert [answers[number].completion for number in range(16)] == expected
        assert online.figures.num_restarts > 0
    finally:
        online.close(0.0)
