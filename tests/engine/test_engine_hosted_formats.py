"""JSON asked of a provider: sent as its protocol has it, checked when it comes back; and its likeliest tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.engine.fake_provider import FakeProvider, Trouble
from tests.engine.test_engine_hosted import Desk

from rung.base.errors import DataError, ProviderFailed, SettingsError
from rung.engine.hosted.completer import Hosted
from rung.records.contracts import Completion, Message, Request, Sampling

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FIELDS = ["model", "prompt", "messages", "max_tokens", "temperature", "seed", "logprobs", "top_logprobs"]
TURNS = (Message("user", "who?"),)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ExitStack() as stack:
        yield Desk(stack)


def hosted(desk: Desk, provider: FakeProvider, **settings: Any) -> Hosted:
    return desk.hosted(provider, **{"fields": [*FIELDS, "response_format"], "api": "chat", **settings})


def ask(constraint: Any, max_new_tokens: int = 40) -> Request:
    return Request("a", Sampling(max_new_tokens=max_new_tokens), messages=TURNS, constraint=constraint)


def answered(desk: Desk, text: str, constraint: Any, **sampling: Any) -> Completion:
    return hosted(desk, desk.provider(lambda body: text)).complete([ask(constraint, **sampling)])[0]


def test_a_constraint_is_sent_as_the_protocol_has_it(desk: Desk) -> None:
    provider = desk.provider(lambda body: '{"name": "Ann", "age": 7}')
    hosted(desk, provider).complete([ask({"json_schema": SCHEMA}), ask({"json": "object"}), ask(None)])
    by_schema, of_any, free = (seen.body.get("response_format") for seen in provider.seen)
    assert by_schema == {
        "type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}
    }  # fmt: skip
    assert (of_any, free) == ({"type": "json_object"}, None)


@pytest.mark.parametrize(
    ("text", "constraint", "complete"),
    [
        ('{"age": 7,\n "name": "Ann"}', {"json_schema": SCHEMA}, True),
        ('{"name": "Ann", "age": 700}', {"json_schema": SCHEMA}, False),
        ('{"name": "Ann"}', {"json_schema": SCHEMA}, False),
        ('{"name": "Ann", "age": 7} ok?', {"json_schema": SCHEMA}, False),
        ('{"anything": [NaN]}', {"json": "object"}, False),
        ('{"anything": [1]}', {"json": "object"}, True),
        ("[1]", {"json": "object"}, False),
        ("[" * 100_000, {"json": "object"}, False),
        ("whatever", None, None),
    ],
)
def test_what_comes_back_is_checked_and_not_believed(desk: Desk, text: str, constraint: Any, complete: Any) -> None:
    got = answered(desk, text, constraint)
    assert (got.text, got.complete, got.refusal) == (text, complete, "")


def test_a_cut_answer_and_a_refusal_are_told_apart(desk: Desk) -> None:
    cut = answered(desk, '{"name": "Ann", "age": 7}', {"json_schema": SCHEMA}, max_new_tokens=2)
    assert (cut.finish_reason, cut.complete, cut.refusal) == ("length", False, "")
    for reason in ("stop", "content_filter"):
        message = {"role": "assistant", "content": None, "refusal": "I would rather not."}
        reply = {"choices": [{"message": message, "finish_reason": reason, "logprobs": None}]}
        provider = desk.provider(forever=Trouble(body=reply))
        no = hosted(desk, provider, logprobs="raw").complete([ask({"json_schema": SCHEMA})])[0]
        assert (no.text, no.complete, no.refusal, no.hit_limit) == ("", False, "I would rather not.", False)
        assert len(provider.seen) == 1, "a refusal is an answer: it is not asked for again"


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (ask({"regex": "[0-9]+"}), "provider cannot be asked for"),
        (ask({"json": True}), "provider cannot be asked for"),
        (ask({"json": "object", "regex": "a"}), "provider cannot be asked for"),
        (ask({"json_schema": {"type": "array", "contains": {}}}), "contains"),
        (Request("a", Sampling(stop=("x",)), messages=TURNS, constraint={"json": "object"}), "stop strings"),
        (Request("a", Sampling(), messages=TURNS, top_logprobs=3), "log-probabilities"),
        (Request("a", Sampling(), messages=TURNS, top_logprobs=21), "top_logprobs is 21"),
    ],
)
def test_what_a_provider_does_not_speak_is_refused_before_anything_is_sent(
    desk: Desk, request_: Request, said: str
) -> None:
    provider = desk.provider()
    with pytest.raises(SettingsError, match=said) as caught:
        hosted(desk, provider).complete([ask({"json": "object"}), request_])
    assert caught.value.hint
    assert provider.seen == []


def test_a_server_that_is_not_said_to_obey_is_not_asked(desk: Desk) -> None:
    provider = desk.provider()
    with pytest.raises(SettingsError, match="not constrained") as caught:
        hosted(desk, provider, fields=FIELDS).complete([ask({"json": "object"})])
    assert "response_format" in caught.value.hint
    secret = {"type": "object", "properties": {"mail ann.smith@example.org": {"type": "null"}}}
    with pytest.raises(DataError, match="its schema holds"):
        hosted(desk, provider).complete([ask({"json_schema": secret})])
    assert provider.seen == []


# -- the likeliest tokens


def with_top(chat: bool) -> Trouble:
    """Two tokens, each with two alternatives."""
    if chat:
        entries = [
            {"token": word, "logprob": -0.5, "top_logprobs": [
                {"token": "x", "logprob": -1.5}, {"token": word, "logprob": -0.5}
            ]} for word in ("one", " two")
        ]  # fmt: skip
        choice: Any = {"message": {"content": "one two"}, "logprobs": {"content": entries}}
    else:
        tops = [{"one": -0.5, "x": -1.5}, {"x": -1.5, " two": -0.5}]
        logprobs = {"tokens": ["one", " two"], "token_logprobs": [-0.5, -0.5], "top_logprobs": tops}
        choice = {"text": "one two", "logprobs": logprobs}
    return Trouble(body={"choices": [{**choice, "finish_reason": "stop"}]})


@pytest.mark.parametrize("chat", [True, False])
def test_the_likeliest_tokens_are_asked_for_and_read(desk: Desk, chat: bool) -> None:
    provider = desk.provider(forever=with_top(chat))
    what: Any = {"messages": TURNS} if chat else {"text": "who?"}
    api = "chat" if chat else "completions"
    got = hosted(desk, provider, api=api, logprobs="raw").complete(
        [Request("a", Sampling(), top_logprobs=2, **what)]
    )[0]  # fmt: skip
    assert [[logprob for _, logprob in place] for place in got.top] == [[-0.5, -1.5]] * 2
    assert [place[0][0] for place in got.top] == [*got.token_ids], "the drawn token has the same stand-in"
    sent = provider.seen[0].body
    assert (sent["logprobs"], sent.get("top_logprobs")) == ((True, 2) if chat else (2, None))


def test_missing_alternatives_are_named(desk: Desk) -> None:
    asked = Request("a", Sampling(), messages=TURNS, top_logprobs=2)
    with pytest.raises(ProviderFailed, match="top_logprobs is NoneType"):
        hosted(desk, desk.provider(), logprobs="raw", retry={"attempts": 1}).complete([asked])
