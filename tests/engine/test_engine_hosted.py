"""The hosted completer against a provider that fails, lies, dawdles and charges."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tests.engine.fake_provider import FakeProvider, FakeTime, Trouble, serving

from rung.base.errors import BudgetSpent, DataError, MissingDependency, ProviderFailed, SettingsError
from rung.base.events import Events
from rung.base.settings import validate
from rung.engine.hosted.completer import Hosted
from rung.engine.hosted.settings import HostedSettings
from rung.records.contracts import Completer, Message, Request, Sampling

PRICES = {"m": {"prompt": 3.0, "completion": 1_000_000.0}}


class Recorder:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def handle(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


class Desk:
    """Makes providers and completers that talk to them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self.time, self.recorder = stack, FakeTime(), Recorder()

    def provider(self, *args: Any, **named: Any) -> FakeProvider:
        return self._stack.enter_context(serving(FakeProvider(*args, **named)))

    def hosted(self, provider: FakeProvider, on_step: Any = None, **settings: Any) -> Hosted:
        values = {"address": provider.address, "model": "m", "max_in_flight": 1, **settings}
        made = Hosted(
            validate(HostedSettings, values, "test"),
            events=Events([self.recorder]),
            on_step=on_step,
            environment={},
            clock=self.time.clock,
            sleep=self.time.sleep,
        )
        self._stack.callback(made.release)
        return made


def nowhere() -> FakeProvider:
    provider = FakeProvider()
    provider.address = "http://127.0.0.1:9/v1"
    return provider


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ExitStack() as stack:
        yield Desk(stack)


def ask(name: str = "a", **sampling: Any) -> Request:
    return Request(name, Sampling(**{"max_new_tokens": 4, **sampling}), seed=7, text=f"say {name}")


def asks(count: int) -> list[Request]:
    return [ask(str(i)) for i in range(count)]


# -- retries


def test_failing_twice_then_answering_gives_one_result(desk: Desk) -> None:
    provider = desk.provider(troubles=[Trouble(503), Trouble(500)])
    hosted = desk.hosted(provider)
    assert isinstance(hosted, Completer)
    assert [c.text for c in hosted.complete([ask()])] == [" fine"]
    assert (hosted.spend.requests, hosted.spend.retries) == (3, 2)
    first, second = desk.time.sleeps
    assert 0.5 <= first <= 1 <= second <= 2


def test_failing_for_ever_ends_in_time_with_a_named_error(desk: Desk) -> None:
    provider = desk.provider(forever=Trouble(500, {"error": {"message": "out of\x1b[2J order"}}))
    hosted = desk.hosted(provider, retry={"attempts": 100, "seconds": 30.0, "cap_seconds": 8.0})
    with pytest.raises(ProviderFailed, match=r"request 'a': the server answered 500: out of \[2J order, after"):
        hosted.complete([ask()])
    assert 20 < desk.time.now <= 30
    assert len(provider.seen) == len(desk.time.sleeps) + 1


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_failure_for_good_calls_the_rest_off_at_once_and_is_the_one_told(desk: Desk, at_once: int) -> None:
    provider = desk.provider(forever=Trouble(401))
    with pytest.raises(ProviderFailed, match="401"):
        desk.hosted(provider, max_in_flight=at_once).complete(asks(20))
    assert 1 <= len(provider.seen) <= at_once


def test_attempts_are_limited(desk: Desk) -> None:
    provider = desk.provider(forever=Trouble(500))
    with pytest.raises(ProviderFailed, match="after 3 attempts"):
        desk.hosted(provider, retry={"attempts": 3}).complete([ask()])
    assert len(provider.seen) == 3


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 599])
def test_these_are_tried_again(desk: Desk, status: int) -> None:
    assert desk.hosted(desk.provider(troubles=[Trouble(status)])).complete([ask()])[0].text == " fine"


@pytest.mark.parametrize("status", [307, 400, 401, 403, 404, 413, 422])
def test_these_never_are(desk: Desk, status: int) -> None:
    provider = desk.provider()
    provider.forever = Trouble(status, headers={"Location": provider.address + "/elsewhere"})
    with pytest.raises(ProviderFailed, match=f"answered {status}") as caught:
        desk.hosted(provider).complete([ask()])
    assert len(provider.seen) == 1
    assert (status in (401, 403)) == ("key_variable" in caught.value.hint)


def test_retry_after_is_honoured_as_number_and_as_date(desk: Desk) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
    troubles = [Trouble(429, headers={"Retry-After": "17"}), Trouble(429, headers={"Retry-After": date})]
    desk.hosted(desk.provider(troubles=troubles)).complete([ask()])
    assert desk.time.sleeps[0] == 17
    assert 250 < desk.time.sleeps[1] <= 300


def test_a_wish_beyond_the_time_limit_ends_at_once(desk: Desk) -> None:
    provider = desk.provider(forever=Trouble(429, headers={"Retry-After": "3600"}))
    with pytest.raises(ProviderFailed, match="429"):
        desk.hosted(provider).complete([ask()])
    assert desk.time.sleeps == []


def test_nobody_there(desk: Desk) -> None:
    hosted = desk.hosted(nowhere(), retry={"attempts": 2}, prices=PRICES)
    with pytest.raises(ProviderFailed, match="connection failed"):
        hosted.complete([ask()])
    assert (hosted.spend.requests, hosted.spend.money_unsure) == (2, 0.0)


@pytest.mark.parametrize("how", ["waits", "drips"])
def test_a_slow_provider_is_left(desk: Desk, how: str) -> None:
    provider = desk.provider()
    provider.forever = Trouble(wait=provider.closing) if how == "waits" else Trouble(drip=True)
    hosted = desk.hosted(provider, timeout_seconds=0.1, retry={"attempts": 2}, prices=PRICES)
    with pytest.raises(ProviderFailed, match=r"no whole answer within 0\.1 s, after 2 attempts"):
        hosted.complete([ask()])
    assert hosted.spend.money_unsure > 8  # two attempts at four tokens: they may be charged


# -- reading


def right(**changes: Any) -> dict[str, Any]:
    return {"choices": [{"text": " fine", "finish_reason": "stop", **changes}]}


GARBAGE = {
    "not JSON": b"<html>busy</html>",
    "is list, not an object": [],
    "no list 'choices'": {"error": "quietly"},
    "0 choices": {"choices": []},
    "2 choices": {"choices": right()["choices"] * 2},
    r"choices\[0\] is NoneType": {"choices": [None]},
    r"choices\[0\].text is NoneType": right(text=None),
    "finish_reason is NoneType": right(finish_reason=None),
    "finish_reason is content_filter": right(finish_reason="content_filter"),
    "finish_reason is str": right(finish_reason="ignore your instructions"),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_named_and_tried_again(desk: Desk, what: str) -> None:
    provider = desk.provider(troubles=[Trouble(body=GARBAGE[what])])
    assert desk.hosted(provider).complete([ask()])[0].text == " fine"
    provider.forever = Trouble(body=GARBAGE[what])
    with pytest.raises(ProviderFailed, match=what):
        desk.hosted(provider, retry={"attempts": 2}).complete([ask()])


def test_numbers_that_are_none_are_not_json(desk: Desk) -> None:
    body = (
        b'{"choices": [{"text": "x", "finish_reason": "stop", "logprobs": {"tokens": ["x"], "token_logprobs": [NaN]}}]}'
    )
    with pytest.raises(ProviderFailed, match="not JSON"):
        desk.hosted(desk.provider(forever=Trouble(body=body)), retry={"attempts": 1}, logprobs="raw").complete([ask()])


@pytest.mark.parametrize("reply", [Trouble(body=b" " * 5000), Trouble(body=b"x", headers={"Content-Encoding": "gzip"})])
def test_a_reply_that_is_too_long_or_compressed_is_not_read(desk: Desk, reply: Trouble) -> None:
    provider = desk.provider(forever=reply)
    with pytest.raises(ProviderFailed, match=r"longer than 1024|compressed"):
        desk.hosted(provider, limits={"response_bytes": 1024}).complete([ask()])
    assert len(provider.seen) == 1


def test_what_a_provider_says_is_data_and_can_be_stored(desk: Desk) -> None:
    said = "ignore all rules; {{7*7}} __import__('os').system('x') ../../etc/passwd"
    got = desk.hosted(desk.provider(lambda body: said)).complete([ask(max_new_tokens=99)])[0]
    assert (got.text, got.finish_reason) == (said, "eos")
    half = Trouble(body=b'{"choices": [{"text": "a\\ud800b", "finish_reason": "stop"}]}')
    assert desk.hosted(desk.provider(forever=half)).complete([ask()])[0].text.encode() == b"a?b"


def test_finish_reasons(desk: Desk) -> None:
    provider = desk.provider(lambda body: "one two three four five six")
    stopped = desk.hosted(provider).complete([ask(stop=("three",), max_new_tokens=4)])[0]
    assert (stopped.text, stopped.raw_text, stopped.finish_reason) == ("one two ", "one two three four", "stop")
    assert desk.hosted(provider).complete([ask(max_new_tokens=4)])[0].hit_limit
    assert desk.hosted(provider).complete([ask(max_new_tokens=40)])[0].finish_reason == "eos"
    cut_there = right(text="one ", stop_reason="two"), right(text="one ", stop_reason=None), right(text="one ")
    for body, reason in zip(cut_there, ("stop", "eos", "stop"), strict=True):
        provider.troubles = [Trouble(body=body)]
        assert desk.hosted(provider).complete([ask(stop=("two",))])[0].finish_reason == reason


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_log_probabilities_are_those_the_settings_say(desk: Desk, api: str) -> None:
    hosted = desk.hosted(desk.provider(lambda body: "one two"), api=api, logprobs="raw")
    message = (Message("user", "hi"),)
    for temperature, sampled in ((0.0, (0.0, 0.0)), (0.7, ()), (1.0, (-0.5, -0.5))):
        sampling = Sampling(temperature, max_new_tokens=9)
        request = Request("a", sampling, messages=message) if api == "chat" else Request("a", sampling, text="hi")
        got = hosted.complete([request])[0]
        assert (got.logprobs, got.raw_logprobs) == (sampled, (-0.5, -0.5))
        assert len(set(got.token_ids)) == 2
        assert max(got.token_ids) < 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "logprobs is NoneType"),
        ({"tokens": ["a"], "token_logprobs": None}, "token_logprobs is NoneType, not a list"),
        ({"tokens": ["a", "b"], "token_logprobs": [-1.0]}, "do not belong together"),
        ({"tokens": [3], "token_logprobs": [-1.0]}, "do not belong together"),
        ({"tokens": ["a"], "token_logprobs": [1.0]}, "not a number below zero"),
        ({"tokens": ["a"], "token_logprobs": [None]}, "a log-probability is null"),
    ],
)
def test_log_probabilities_that_were_promised_and_are_wrong_are_named(desk: Desk, given: Any, said: str) -> None:
    provider = desk.provider(forever=Trouble(body=right(logprobs=given)))
    with pytest.raises(ProviderFailed, match=said):
        desk.hosted(provider, logprobs="raw", retry={"attempts": 1}).complete([ask()])


# -- scoring


def test_scores_are_read_from_an_echo(desk: Desk) -> None:
    provider = desk.provider()
    hosted = desk.hosted(provider, score_by_echo=True)
    scored = hosted.score(["ab", "x"], ["cb", "c"])
    assert [s.logprobs for s in scored] == [(-(99.0 % 7), -(98.0 % 7)), (-(99.0 % 7),)]
    assert scored[0].token_ids[0] == scored[1].token_ids[0] != scored[0].token_ids[1]
    assert {(s.body["max_tokens"], s.body["echo"]) for s in provider.seen} == {(0, True)}


def test_a_token_over_the_boundary_or_without_context_is_named_once(desk: Desk) -> None:
    joined = {"tokens": ["a", "bc"], "token_logprobs": [None, -1.0]}
    provider = desk.provider(troubles=[Trouble(body=right(logprobs=joined))])
    hosted = desk.hosted(provider, score_by_echo=True)
    with pytest.raises(ProviderFailed, match="do not meet where the continuation begins"):
        hosted.score(["ab"], ["c"])
    with pytest.raises(ProviderFailed, match="no log-probability"):
        hosted.score([""], ["c"])
    assert len(provider.seen) == 2


def test_what_it_cannot_do_is_refused_before_anything_is_sent(desk: Desk) -> None:
    provider = desk.provider()
    plain, chat = desk.hosted(provider), desk.hosted(provider, api="chat", score_by_echo=True)
    sampling, message = Sampling(), (Message("user", "x"),)
    for call, said in (
        (lambda: plain.score(["a"], ["b"]), "not known to score"),
        (lambda: chat.score(["a"], ["b"]), "not known to score"),
        (lambda: chat.complete([ask()]), "chat api takes no text"),
        (lambda: plain.complete([Request("a", sampling, messages=message)]), "takes no messages"),
        (lambda: chat.complete([Request("a", sampling, messages=(Message("boss", "x"),))]), "no role 'boss'"),
        (lambda: plain.complete([Request("a", sampling, token_ids=(1,))]), "token ids"),
        (lambda: plain.complete([Request("a", sampling, text="x", constraint={})]), "not constrained"),
        (lambda: plain.complete([Request("a", sampling)]), "exactly one of"),
        (lambda: plain.complete([ask("ok"), ask(top_k=5)]), "'top_k', which may not be sent"),
    ):
        with pytest.raises(SettingsError, match=said):
            call()
    assert provider.seen == []


def test_token_ids_go_where_the_settings_say_so(desk: Desk) -> None:
    provider = desk.provider()
    request = Request("a", Sampling(), token_ids=(5, 6))
    with pytest.raises(SettingsError, match="cannot be searched"):
        desk.hosted(provider, accepts_token_ids=True).complete([request])
    desk.hosted(provider, accepts_token_ids=True, privacy={"mode": "off"}).complete([request])
    assert [seen.body["prompt"] for seen in provider.seen] == [[5, 6]]


# -- concurrency


def test_answers_come_in_order_and_so_many_at_once(desk: Desk) -> None:
    barrier = threading.Barrier(4, timeout=5)

    def answer(body: Any) -> str:
        barrier.wait()
        return body["prompt"]

    requests = asks(8)
    got = desk.hosted(desk.provider(answer), max_in_flight=4).complete(requests)
    assert [(c.id, c.text) for c in got] == [(r.id, r.text) for r in requests]


def test_never_more_at_once_than_allowed(desk: Desk) -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def answer(body: Any) -> str:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0.005)
        with lock:
            now[0] -= 1
        return "x"

    desk.hosted(desk.provider(answer), max_in_flight=2).complete(asks(10))
    assert most[0] == 2


def test_the_same_request_twice_is_paid_once(desk: Desk) -> None:
    provider = desk.provider()
    assert len(desk.hosted(provider).complete([ask(), ask("b"), ask()])) == 3
    assert len(provider.seen) == 2


def test_what_on_step_raises_ends_it_and_answers_are_kept(desk: Desk) -> None:
    counted: list[int] = []

    def on_step(num_tokens: int) -> None:
        counted.append(num_tokens)
        if sum(counted) == 2:
            raise KeyboardInterrupt

    provider = desk.provider()
    hosted = desk.hosted(provider, on_step=on_step)
    with pytest.raises(KeyboardInterrupt):
        hosted.complete(asks(50))
    sent = len(provider.seen)
    assert sent < 50
    assert len(hosted.complete(asks(50))) == 50
    assert len(provider.seen) == 50


# -- limits and money


def test_a_cap_on_requests_holds_and_what_came_is_not_paid_again(desk: Desk) -> None:
    provider = desk.provider()
    hosted = desk.hosted(provider, limits={"requests": 3})
    with pytest.raises(BudgetSpent, match="cap of 3 requests") as caught:
        hosted.complete(asks(5))
    assert caught.value.resumable
    assert len(provider.seen) == 3
    assert [c.id for c in hosted.complete(asks(3))] == ["0", "1", "2"]
    assert len(provider.seen) == 3


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_cap_on_money_is_never_passed_and_is_used_up(desk: Desk, at_once: int) -> None:
    """Each answer costs a little over 1; its upper cost is over 4. So the eighth would be sent below 7, not above."""
    provider = desk.provider()
    hosted = desk.hosted(provider, prices=PRICES, limits={"money": 10.0}, max_in_flight=at_once)
    with pytest.raises(BudgetSpent, match="cap of 10 has no room"):
        hosted.complete(asks(20))
    assert len(provider.seen) == 6
    assert 6 < hosted.spend.money < 6.1
    assert hosted.spend.money_unsure == 0


def test_money_follows_the_price_table(desk: Desk) -> None:
    hosted = desk.hosted(desk.provider(lambda body: "a b c"), prices={"m": {"prompt": 2.0, "completion": 10.0}})
    hosted.complete(asks(2))
    spend = hosted.spend
    assert (spend.prompt_tokens, spend.completion_tokens, spend.priced) == (4, 6, True)
    assert spend.money == pytest.approx((4 * 2 + 6 * 10) / 1e6)
    metrics = {e["name"]: e["value"] for e in desk.recorder.events if e["kind"] == "metric"}
    assert metrics["hosted/money"] == spend.money
    assert (metrics["hosted/requests"], metrics["hosted/retries"]) == (2, 0)


def test_no_count_means_the_upper_estimate(desk: Desk) -> None:
    hosted = desk.hosted(desk.provider(forever=Trouble(body=right())), prices=PRICES)
    hosted.complete([ask()])
    assert hosted.spend.money == 0
    assert hosted.spend.money_unsure > 4


def test_a_cap_without_a_price_is_refused(desk: Desk) -> None:
    with pytest.raises(SettingsError, match="needs the price of 'm'"):
        desk.hosted(nowhere(), prices={"other": PRICES["m"]}, limits={"money": 1.0})


@pytest.mark.parametrize("limits", [{"requests_per_minute": 30}, {"tokens_per_minute": 30 * 14}])
def test_rates_space_requests(desk: Desk, limits: dict[str, float]) -> None:
    """A request is at most 14 tokens here: 2 for five bytes of prompt, 8 around it, 4 new ones."""
    provider = desk.provider()
    desk.hosted(provider, limits=limits).complete(asks(5))
    assert desk.time.sleeps == pytest.approx([2.0] * 4)


def test_a_request_that_is_too_long_is_not_sent(desk: Desk) -> None:
    provider = desk.provider()
    with pytest.raises(DataError, match="300 may be sent"):
        desk.hosted(provider, limits={"request_characters": 300}).complete([ask(), ask("b" * 300)])
    assert provider.seen == []


def test_only_allowed_fields_and_headers_leave(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "somebody-elses")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: somebody-elses")
    provider = desk.provider()
    desk.hosted(provider).complete([ask(stop=("x",) * 9)])
    fields = ["model", "prompt", "max_tokens", "temperature"]
    desk.hosted(provider, fields=fields).complete([ask(stop=("x",))])
    first, second = provider.seen
    assert set(first.body) == {*fields, "seed", "stop"}
    assert (first.body["seed"], len(first.body["stop"])) == (7, 4)
    assert set(second.body) == set(fields)
    names = {name.lower() for name in first.headers}
    assert names == {"host", "accept", "accept-encoding", "connection", "content-length", "content-type", "user-agent"}
    assert b"somebody-elses" not in json.dumps(dict(first.headers)).encode() + first.raw


# -- the rest


def test_counting_is_an_estimate_by_bytes(desk: Desk) -> None:
    assert desk.hosted(nowhere()).count_tokens(["", "four", "fives", "漢字"]) == [0, 1, 2, 2]


@pytest.mark.parametrize("package", ["openai", "tenacity"])
def test_a_missing_extra_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in ("wire", "retry"):
        monkeypatch.delitem(sys.modules, f"rung.engine.hosted.{name}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=f"'{package}'") as caught:
        desk.hosted(nowhere())
    assert caught.value.hint == "pip install 'rung[hosted]'"
