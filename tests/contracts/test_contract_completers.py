"""One promise, three kinds of completer: a tiny local model, a hosted one on a fake provider, a script."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.engine.fake_provider import FakeProvider, serving

from rung.base.errors import SettingsError
from rung.base.lookup import known, lookup
from rung.base.settings import Settings
from rung.engine.opening import FOLDER, Surroundings, open_completer
from rung.models.load import load
from rung.records.contracts import Completer, Message, Request, Sampling
from rung.records.scripted import Scripted
from rung.records.stop import cut_at_stop

NAMES = known(FOLDER)
WORDS = "one two three four five six seven eight"


@dataclass
class Party:
    """A completer, the conversations that reached whatever stands behind it, and whether that heeds seeds."""

    completer: Completer
    conversations: Callable[[], list[Any]] | None = None
    seeds: bool = True


def load_tiny(source: str) -> Any:
    return load(source, precision="float32")


def local(stack: ExitStack) -> Party:
    spec = {"kind": "local", "model": "tiny:llama", "engine": {"num_slots": 4}}
    return Party(open_completer(spec, Surroundings(load=load_tiny)))


def hosted(stack: ExitStack, **settings: Any) -> Party:
    def answer(body: Any) -> str:
        return f"{body['seed']} {WORDS}"

    provider = stack.enter_context(serving(FakeProvider(answer)))
    completer: Any = open_completer({"kind": "hosted", "address": provider.address, "model": "m", **settings})
    stack.callback(completer.release)
    return Party(completer, lambda: [seen.body["messages"] for seen in provider.seen])


def hosted_chat(stack: ExitStack) -> Party:
    return hosted(stack, api="chat", logprobs="sampled")


def hosted_scoring(stack: ExitStack) -> Party:
    return hosted(stack, score_by_echo=True, logprobs="raw")


def scripted(stack: ExitStack) -> Party:
    made = Scripted(lambda request: f"{request.seed} {WORDS}", score_of=lambda prompt, continuation: -1.0)
    return Party(made, lambda: [[{"role": m.role, "content": m.content} for m in r.messages] for r in made.requests])


def scripted_from_settings(stack: ExitStack) -> Party:
    return Party(open_completer({"kind": "scripted", "answers": [WORDS]}), seeds=False)


MAKERS = (local, hosted, hosted_chat, hosted_scoring, scripted, scripted_from_settings)


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def party(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Party]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ExitStack() as stack:
        yield request.param(stack)


def ask(party: Party, name: str = "a", seed: int = 0, **sampling: Any) -> Request:
    """A request in a form that this completer takes."""
    spec = Sampling(**{"max_new_tokens": 16, **sampling})
    if party.completer.capabilities().messages:
        return Request(name, spec, seed, messages=(Message("user", f"say {name}"),))
    return Request(name, spec, seed, text=f"say {name}")


def test_keeps_the_promise_and_answers_in_order(party: Party) -> None:
    assert isinstance(party.completer, Completer)
    requests = [ask(party, str(i), seed=i) for i in range(9)]
    together = party.completer.complete(requests)
    assert [done.id for done in together] == [request.id for request in requests]
    alone = [party.completer.complete([request])[0] for request in requests]
    assert [done.raw_text for done in together] == [done.raw_text for done in alone]
    assert party.completer.complete([]) == []


def test_stop_strings_are_cut_right_before_the_first(party: Party) -> None:
    whole = party.completer.complete([ask(party)])[0].raw_text
    stop = (whole[len(whole) // 2 :][:3], whole[len(whole) // 2 - 2 :][:3])
    done = party.completer.complete([ask(party, stop=stop)])[0]
    assert (done.text, done.finish_reason, done.hit_limit) == (cut_at_stop(whole, stop)[0], "stop", False)
    assert done.raw_text.startswith(done.text)


def test_the_token_limit_holds_and_is_told(party: Party) -> None:
    for limit in (1, 3, 64):
        done = party.completer.complete([ask(party, max_new_tokens=limit)])[0]
        assert len(done.token_ids) <= limit
        assert done.hit_limit == (done.finish_reason == "length") == (len(done.token_ids) == limit)


def test_a_request_keeps_its_own_seed(party: Party) -> None:
    if not party.seeds:
        pytest.skip("a script from settings plays the same to everyone")
    asked = [ask(party, "r", seed, temperature=1.0) for seed in (3, 4, 3)]
    first, other, again = party.completer.complete(asked)
    assert first.raw_text == again.raw_text != other.raw_text


def test_few_shot_turns_arrive_unmerged_or_are_refused(party: Party) -> None:
    turns = [("system", "be brief"), ("user", "1+1"), ("assistant", "2"), ("user", "2+2"), ("user", "please")]
    request = Request("m", Sampling(), messages=tuple(Message(*turn) for turn in turns))
    if not party.completer.capabilities().messages:
        with pytest.raises(SettingsError, match="messages"):
            party.completer.complete([request])
        return
    party.completer.complete([request])
    if party.conversations is not None:
        assert party.conversations() == [[{"role": role, "content": content} for role, content in turns]]


def test_capabilities_are_true(party: Party) -> None:
    able = party.completer.capabilities()
    done = party.completer.complete([ask(party, temperature=0.5)])[0]
    assert able.logprobs == bool(done.logprobs or done.raw_logprobs)
    assert {len(values) for values in (done.logprobs, done.raw_logprobs) if values} <= {len(done.token_ids)}
    if able.score:
        short, long = party.completer.score(["say "] * 2, ["a", "a b"])
        assert 0 < len(short.logprobs) == len(short.token_ids) <= len(long.logprobs)
        assert short.total <= 0
    else:
        with pytest.raises((SettingsError, AssertionError)):
            party.completer.score(["say "], ["a"])
    if able.constraints:
        [bound] = party.completer.complete([replace(ask(party), constraint={"choice": ["yes", "no"]})])
        assert (bound.text in ("yes", "no"), bound.complete, done.complete) == (True, True, None)
    elif not isinstance(party.completer, Scripted):
        constrained = Request("c", Sampling(), text="x", messages=(), constraint={"kind": "json"})
        with pytest.raises(SettingsError):
            party.completer.complete([constrained])


def test_counting_counts_more_for_more(party: Party) -> None:
    none, some, more = party.completer.count_tokens(["", "some words", "some words and some more"])
    assert 0 == none < some < more


# -- the factory


def test_one_word_changes_the_provider() -> None:
    around = Surroundings(model="tiny:llama", load=load_tiny)
    assert open_completer("local", around).capabilities().name == "tiny:llama"
    assert open_completer({"kind": "scripted", "answers": ["x"]}, around).capabilities().name == "scripted"
    made = open_completer({"kind": "hosted", "address": "http://127.0.0.1:9/v1", "model": "m"}, around)
    assert made.capabilities().name == "hosted:m"


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="'hostedd'") as caught:
        open_completer({"kind": "hostedd"}, place="bootstrap.completer")
    assert caught.value.place == "bootstrap.completer"
    assert caught.value.hint == "did you mean 'hosted'? known: hosted, local, scripted, served"


def test_a_local_one_needs_a_model_and_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="no model is named"):
        open_completer("local")
    with pytest.raises(SettingsError, match="adress"):
        open_completer({"kind": "hosted", "adress": "http://127.0.0.1:9/v1", "model": "m"})


@pytest.mark.parametrize("name", NAMES)
def test_shape_of_a_kind(name: str) -> None:
    kind = lookup(FOLDER, name)
    assert issubclass(kind.Settings, Settings)
    assert kind.Settings.model_fields
    assert all(field.description for field in kind.Settings.model_fields.values())


def test_looking_up_a_kind_brings_neither_torch_nor_a_providers_packages() -> None:
    lines = ["import sys", "from rung.base.lookup import lookup", "import rung.engine.opening"]
    lines += [f"lookup({FOLDER!r}, {name!r})" for name in NAMES]
    lines += ["assert not {'torch', 'transformers', 'openai', 'tenacity', 'httpx2'} & set(sys.modules)"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
