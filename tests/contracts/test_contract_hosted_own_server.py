"""The hosted completer on our own server gives what the engine behind it gives offline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.engine.engine_models import llama

from rung.app.server.factory import create_app
from rung.app.server.key import Key
from rung.app.server.running import Running, listen
from rung.app.server.settings import ServeSettings
from rung.base.errors import ProviderFailed, SettingsError
from rung.base.events import Events
from rung.base.settings import validate
from rung.engine.engine import Engine
from rung.engine.hosted.completer import Hosted
from rung.engine.hosted.served import Served, ServedSettings
from rung.engine.hosted.settings import HostedSettings, SentField
from rung.engine.online import Online, OnlineSettings
from rung.engine.settings import EngineSettings
from rung.records.contracts import Request, Sampling

KEY = "key-of-our-own-server"
FIELDS: list[SentField] = [
    "model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed", "logprobs",
    "echo",
]  # fmt: skip


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    events, settings = Events(), ServeSettings(port=0)
    online = Online(lambda: Engine(llama(), EngineSettings(num_slots=4)), OnlineSettings(), events)
    with Running(create_app(online, "tiny", settings, Key(KEY), events), listen(settings)) as running:
        yield f"{running.address}/v1"


def hosted(address: str, key: str = KEY) -> Hosted:
    values = {"address": address, "model": "tiny", "key_variable": "OWN_KEY", "fields": FIELDS}
    settings = validate(HostedSettings, {**values, "logprobs": "raw", "score_by_echo": True}, "test")
    return Hosted(settings, environment={"OWN_KEY": key})


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_completions_and_scores_equal_the_engines(address: str) -> None:
    engine, client = Engine(llama()), hosted(address)
    how = Sampling(temperature=0.9, top_p=0.9, top_k=50, repetition_penalty=1.1, max_new_tokens=12, stop=("e", "a"))
    requests = [Request(str(seed), how, seed, f"text {seed} is") for seed in range(8)]
    for got, expected in zip(client.complete(requests), engine.complete(requests), strict=True):
        assert (got.id, got.text, got.finish_reason) == (expected.id, expected.text, expected.finish_reason)
        assert got.num_prompt_tokens == expected.num_prompt_tokens
    pairs = (["ab c", "hello"], [" de", " you there"])
    for scored, right in zip(client.score(*pairs), engine.score(*pairs), strict=True):
        assert scored.logprobs == pytest.approx(right.logprobs, abs=1e-5)
    client.release()


def test_a_wrong_key_is_refused_once(address: str) -> None:
    client = hosted(address, "another-key-altogether")
    with pytest.raises(ProviderFailed, match="answered 401") as caught:
        client.complete([Request("a", Sampling(), text="x")])
    assert "key_variable" in caught.value.hint
    assert client.spend.requests == 1
    client.release()


def served(address: str, **settings: object) -> Served:
    values = {"address": address, "key_variable": "OWN_KEY", **settings}
    return Served(validate(ServedSettings, values, "test"), environment={"OWN_KEY": KEY})


def test_a_served_model_answers_to_the_bit_as_in_this_process(address: str) -> None:
    engine, client = Engine(llama()), served(address)
    how = Sampling(temperature=0.9, top_p=0.9, top_k=50, repetition_penalty=1.1, max_new_tokens=12, stop=("e", "a"))
    requests = [Request(str(seed), how, seed, f"text {seed} is") for seed in range(35)]
    assert client.complete(requests) == engine.complete(requests)
    pairs = (["ab c", "hello", "ab c"], [" de", " you there", ""])
    assert client.score(*pairs) == engine.score(*pairs)
    assert client.count_tokens(["", "héllo"]) == engine.count_tokens(["", "héllo"])
    assert client.capabilities() == engine.capabilities()
    assert (client.complete([]), client.score([], []), client.count_tokens([])) == ([], [], [])
    client.release()


def test_a_served_model_obeys_constraints_as_in_this_process(address: str) -> None:
    client, how = served(address), Sampling(temperature=1.0, max_new_tokens=24)
    requests = [Request(str(n), how, n, "x", constraint={"regex": "[a-c]{3,9}"}) for n in range(4)]
    assert client.capabilities().constraints
    assert client.complete(requests) == Engine(llama()).complete(requests)
    client.release()


def test_a_served_model_keeps_to_the_limits_and_says_which(address: str) -> None:
    client = served(address)
    with pytest.raises(ProviderFailed, match="max_new_tokens is 5000, at most 1024"):
        client.complete([Request("a", Sampling(max_new_tokens=5000), text="x")])
    client.release()


def test_another_server_is_not_taken_for_ours(address: str) -> None:
    with pytest.raises(SettingsError, match="no `rung serve`"):
        served(address.removesuffix("/v1") + "/v2")
