"""The cache's memory: what it takes is what is reported, and a limit holds without changing an answer."""

from __future__ import annotations

import queue
import random
from dataclasses import replace

import pytest
import torch
from tests.engine.engine_models import Made, byte_tokenizer, llama, stirred
from tests.engine.engine_online_models import endless

from rung.base.errors import DataError, SettingsError
from rung.base.events import Events
from rung.engine import engine as engine_module
from rung.engine import store as store_module
from rung.engine.cache import BLOCK
from rung.engine.engine import Engine
from rung.engine.lane import Lane
from rung.engine.online import Online, OnlineSettings
from rung.engine.prefixes import SHORT
from rung.engine.settings import EngineSettings
from rung.engine.steering.answers import answer_ids
from rung.engine.store import Alone, Need, Store
from rung.engine.tickets import News
from rung.models.families.llama import Llama
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


def roomy() -> Made:
    """A model with a context that no limit of these tests reaches: a mebibyte holds 4,096 positions of it."""
    sizes = Llama.SIZES["tiny"].model_copy(update={"max_context": 8192})
    return Made(stirred(Llama.build(sizes)), byte_tokenizer())


def asked(num_prompt: int, num_new: int) -> Request:
    return Request("asked", replace(WARM, max_new_tokens=num_new), token_ids=tuple(i % 250 for i in range(num_prompt)))


def test_a_limit_is_held_against_the_job_not_against_its_length(caches: list[int]) -> None:
    """A prompt lies in the cache once, an answer in every row of a step: 3,000 and 20 fit, 20 and 3,000 do not."""
    made, fits = roomy(), [asked(3000, 20)]
    free = Engine(made, EngineSettings(num_slots=16)).complete(fits)
    del caches[:]
    engine = Engine(made, EngineSettings(num_slots=16, cache_mebibytes=1))
    assert engine.complete(fits) == free
    assert max(caches) <= 1 << 20
    before = engine.num_forwards
    with pytest.raises(DataError, match="a prompt of 21 tokens and 3000 after it take 4 MiB"):
        engine.complete([*fits, asked(20, 3000)])
    assert engine.num_forwards == before, "refused before any work"


def test_what_a_paused_sequence_is_told_has_to_fit_the_limit_too() -> None:
    made = roomy()
    intake = Engine(made, EngineSettings(num_slots=16, cache_mebibytes=1)).intake
    lane = Lane(intake.jobs([asked(20, 30)])[0], made.tokenizer)
    assert len(answer_ids(intake, lane, [1] * 700, None)) == 700
    with pytest.raises(DataError, match="do not fit the limit of 1"):
        answer_ids(intake, lane, [1] * 1100, None)


def test_what_is_held_alone_is_what_the_store_would_take() -> None:
    shape, chance = roomy().network.shape, random.Random(3)
    for _ in range(200):
        num_prompt, num_new, num_rows = chance.randint(1, 900), chance.randint(1, 500), chance.choice((4, 8, 16))
        alone = Alone.of(shape, num_rows, torch.float32, 1)
        store = Store(shape, torch.float32, torch.device("cpu"))
        store.set_step(BLOCK)
        shared = num_prompt - 1
        copied = shared if shared <= SHORT else 0
        store.resize(Need(num_rows, num_new + copied, 1 if shared else 0, shared))
        assert alone.bytes_for(num_prompt, num_new) == store.num_bytes


def test_scoring_takes_no_cache_and_knows_no_limit_of_it() -> None:
    made = roomy()
    limited, free = (Engine(made, EngineSettings(cache_mebibytes=n)) for n in (1, 0))
    assert limited.score(["ab" * 2000], ["c"]) == free.score(["ab" * 2000], ["c"])


def test_a_limit_below_the_smallest_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "slot_bytes", lambda shape, dtype: 10_000)
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
