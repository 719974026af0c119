"""A prompt lies in the cache once, however many sequences go on from it, and sharing it changes no bit."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from tests.engine.engine_models import MODELS, Made, llama

from rung.engine.cache import Cache, slot_bytes
from rung.engine.decode import DecodeAttend, Place
from rung.engine.engine import Engine
from rung.engine.prefixes import SHORT, Prefixes
from rung.engine.settings import EngineSettings
from rung.engine.store import Need, Store
from rung.records.contracts import Request, Sampling

WARM = Sampling(temperature=5.0, top_p=0.95, max_new_tokens=9)


@pytest.fixture(params=sorted(MODELS))
def made(request: pytest.FixtureRequest) -> Made:
    model: Made = MODELS[request.param]()
    return model


def ids(count: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(250), k=count))


def groups(sizes: tuple[int, ...], length: int = 150) -> list[Request]:
    """Prompts of about `length` tokens, the n-th asked `sizes[n]` times; answers of several lengths."""
    return [
        Request(
            f"{p}.{i}",
            replace(WARM, max_new_tokens=2 + (5 * i + p) % 23),
            seed=100 * p + i,
            token_ids=ids(length + 13 * p, p),
        )
        for p, size in enumerate(sizes)
        for i in range(size)
    ]


@pytest.mark.parametrize("sizes", [(8,), (4, 4), (1, 1, 7, 1), (2, 5, 3, 1, 1)])
def test_a_group_says_what_its_members_say_alone(made: Made, sizes: tuple[int, ...]) -> None:
    work = groups(sizes)
    engine = Engine(made, EngineSettings(num_slots=8))
    alone = [engine.complete([request])[0] for request in work]
    assert engine.invariance is not None
    assert engine.invariance.exact
    assert engine.complete(work) == alone
    random.Random(3).shuffle(work)
    by_id = {completion.id: completion for completion in alone}
    assert engine.complete(work) == [by_id[request.id] for request in work]


def test_a_prompt_is_kept_once() -> None:
    made = llama()
    shared, own = (Engine(made, EngineSettings(num_slots=16)) for _ in range(2))
    same = [Request(str(i), WARM, seed=i, token_ids=ids(500, 1)) for i in range(16)]
    shared.complete(same)
    own.complete([replace(request, token_ids=ids(500, i)) for i, request in enumerate(same)])
    position = slot_bytes(made.network.shape, torch.float32)
    assert shared.memory().cache == position * (512 + 16 * 64)
    assert own.memory().cache == position * (16 * 512 + 16 * 64)


@pytest.mark.parametrize("length", [SHORT, SHORT + 1])
def test_a_short_prompt_is_copied_and_a_long_one_is_not(made: Made, length: int) -> None:
    """Either way it is computed once, and no bit depends on company."""
    work = groups((3, 1), length)
    engine = Engine(made, EngineSettings(num_slots=16))
    alone = [engine.complete([request])[0] for request in work]
    lanes = engine.open(lambda place: False)
    lanes.admit(engine.intake.jobs([replace(r, token_ids=r.token_ids[:length]) for r in work]))
    assert {len(lane.prefix.ids) for lane in lanes.lanes} == ({0} if length <= SHORT else {length})
    assert engine.complete(work) == alone


def test_a_prompt_stays_while_its_slot_is_not_needed() -> None:
    """More samples than slots: the later ones find the prompt of the first, although none of them still runs."""
    made = llama()
    engine = Engine(made, EngineSettings(num_slots=16))  # fewer may be more: small batches can have other bits
    engine.complete([Request("warm", WARM, token_ids=(1, 2))])
    work = [Request(str(i), replace(WARM, max_new_tokens=1), seed=i, token_ids=ids(60, 1)) for i in range(48)]
    before = engine.num_forwards
    engine.complete(work)
    assert engine.num_forwards - before == 1 + 3


def test_prompts_leave_in_the_order_they_came_and_never_while_used() -> None:
    cache = Cache(llama().network.shape, 2, torch.float32, torch.device("cpu"))
    prefixes = Prefixes(cache)
    one, is_new = prefixes.take((1, 2))
    assert is_new
    assert prefixes.take((1, 2)) == (one, False)
    two, _ = prefixes.take((3,))
    prefixes.release(two)
    three, is_new = prefixes.take((4, 4))
    assert is_new
    assert (one.slot, three.slot) == (0, 1)
    assert prefixes.take(())[1] is False
    for _ in range(2):
        prefixes.release(one)
    prefixes.pack()
    assert [(p.ids, p.slot) for p in prefixes.prompts()] == [((4, 4), 0)]
    assert three.slot == 0


def test_packing_moves_what_is_cached() -> None:
    cache = Cache(llama().network.shape, 2, torch.float32, torch.device("cpu"))
    cache.reserve(64)
    prefixes = Prefixes(cache)
    one, _ = prefixes.take((1, 2))
    two, _ = prefixes.take((3, 4))
    cache.keys[0][two.slot, :, :2] = 7.0
    prefixes.release(one)
    prefixes.pack()
    assert bool((cache.keys[0][two.slot, :, :2] == 7.0).all())
    assert two.slot == 0


def test_one_step_may_hold_several_tokens_of_a_sequence() -> None:
    """Attention over a whole sequence at once and token by token: the same bits."""
    shape = llama().network.shape
    draw = torch.Generator().manual_seed(0)

    def made(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=draw)

    rows = 8
    query, key, value = (made(rows, 1, n, shape.head_width) for n in (shape.num_heads, *[shape.num_kv_heads] * 2))
    prompt = [made(4, shape.num_kv_heads, 64, shape.head_width) for _ in range(2)]

    def fresh() -> Store:
        store = Store(shape, torch.float32, torch.device("cpu"))
        store.resize(Need(4, 64, 4, 64))
        store.prefixes.keys[0].copy_(prompt[0])
        store.prefixes.values[0].copy_(prompt[1])
        return store

    places = [Place(0, t, 2, 40) for t in range(5)] + [Place(1, 0, 2, 40), Place(2, 0), Place(3, 0, 1, 7)]
    store = fresh()
    together = DecodeAttend(store.own, store.prefixes, places)(0, query, key, value, scale=0.3, window=0)
    store = fresh()
    for t in range(5):
        step = [t, 5, 6, 7]
        attend = DecodeAttend(store.own, store.prefixes, [places[r] for r in step])
        seen = attend(0, query[step], key[step], value[step], scale=0.3, window=0)
        assert torch.equal(seen, together[step])


@pytest.mark.parametrize("window", [0, 5, 30])
def test_attention_is_that_of_one_sequence(window: int) -> None:
    shape = llama().network.shape
    draw = torch.Generator().manual_seed(1)
    num_before, num_own = 37, 12
    total = num_before + num_own
    query = torch.randn((total, shape.num_heads, shape.head_width), generator=draw)
    key, value = torch.randn((2, total, shape.num_kv_heads, shape.head_width), generator=draw)
    store = Store(shape, torch.float32, torch.device("cpu"))
    store.resize(Need(4, 64, 1, 64))
    for held, new in ((store.prefixes.keys, key), (store.prefixes.values, value)):
        held[0][0, :, :num_before] = new[:num_before].transpose(0, 1)
    place, asked = torch.arange(total)[None], torch.arange(total)[:, None]
    hidden = (place > asked) | ((place <= asked - window) if window else torch.zeros_like(place, dtype=torch.bool))
    wanted = torch.nn.functional.scaled_dot_product_attention(
        *(t.double().transpose(0, 1)[None] for t in (query, key, value)),
        attn_mask=~hidden,
        scale=0.3,
        enable_gqa=True,
    )[0].transpose(0, 1)
    spare = [Place(slot, 0) for slot in (1, 2, 3)]
    for t in range(num_own):
        at = num_before + t
        attend = DecodeAttend(store.own, store.prefixes, [Place(0, t, 0, num_before), *spare])
        rows = [at, 0, 0, 0]
        seen = attend(0, query[rows][:, None], key[rows][:, None], value[rows][:, None], scale=0.3, window=window)
        assert torch.allclose(seen[0, 0].double(), wanted[at], atol=2e-6)
