"""A planted key and planted personal data: found nowhere in what is sent, logged, raised, shown or written down."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.engine.fake_provider import FakeProvider, FakeTime, Trouble, serving

from rung.base.errors import DataError, ProviderFailed, SettingsError
from rung.base.events import Events
from rung.base.settings import validate
from rung.engine.hosted.completer import Hosted
from rung.engine.hosted.settings import HostedSettings
from rung.records.contracts import Message, Request, Sampling

KEY = "planted0key1planted2key3"
PERSONAL = ("ada@example.org", "+49 30 1234567", "4111 1111 1111 1111", "sk-abcdefghijklmnop1234")
TEXT = "I am {}, call {}, pay with {}, log in with {}.".format(*PERSONAL)


class Place:
    """A provider, completers on it, and all that can be read afterwards."""

    def __init__(self, provider: FakeProvider, stack: ExitStack) -> None:
        self.provider, self.events, self._stack = provider, [], stack

    def handle(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass

    def hosted(self, **settings: Any) -> Hosted:
        values = {"address": self.provider.address, "model": "m", "key_variable": "THE_KEY", **settings}
        fake = FakeTime()
        made = Hosted(
            validate(HostedSettings, values, "test"),
            events=Events([self]),
            environment={"THE_KEY": KEY},
            clock=fake.clock,
            sleep=fake.sleep,
        )
        self._stack.callback(made.release)
        return made

    @property
    def sent(self) -> str:
        return "".join(json.dumps(dict(s.headers)) + s.raw.decode() for s in self.provider.seen)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Place]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    caplog.set_level(logging.DEBUG)
    with ExitStack() as stack:
        yield Place(stack.enter_context(serving(FakeProvider())), stack)


def told(error: BaseException) -> str:
    """Everything a trace can show of an error, hidden causes and the variables of every frame included."""
    shown, error_or_none = "", error
    while error_or_none is not None:
        trace = traceback.TracebackException.from_exception(error_or_none, capture_locals=True)
        shown += "".join(trace.format()) + repr(vars(error_or_none))
        error_or_none = error_or_none.__cause__ or error_or_none.__context__
    return shown


def failure(hosted: Hosted, request: Request) -> ProviderFailed:
    with pytest.raises(ProviderFailed) as caught:
        hosted.complete([request])
    return caught.value


def test_the_key_reaches_the_provider_and_nothing_else(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    echo = {"error": {"message": f"Incorrect API key provided: {KEY}. Authorization: Bearer {KEY}"}}
    hosted = place.hosted()
    hosted.complete([Request("a", Sampling(), text="hello")])
    assert place.provider.seen[0].headers["authorization"] == f"Bearer {KEY}"
    request = Request("b", Sampling(), text=f"my key is {KEY}")
    errors = []
    for trouble in (Trouble(401, echo), Trouble(500, echo), Trouble(body=echo), Trouble(403, KEY.encode())):
        place.provider.forever = trouble
        errors.append(failure(hosted, request))
    assert "Incorrect API key provided: [secret]" in str(errors[0])
    assert all(KEY not in seen.raw.decode() for seen in place.provider.seen)
    readable = [repr(hosted), str(vars(hosted)), hosted.settings.model_dump_json(), repr(hosted.spend), caplog.text]
    readable += [repr(place.events), repr(hosted.capabilities()), *map(str, errors), *map(repr, errors)]
    assert [text for text in readable if KEY in text] == []
    assert all(KEY not in "".join(traceback.format_exception(error)) for error in errors)


def test_no_frame_of_an_error_holds_the_key(place: Place) -> None:
    hosted = place.hosted(retry={"attempts": 1})
    place.provider.forever = Trouble(500)
    assert KEY not in told(failure(hosted, Request("a", Sampling(), text="hello")))


def test_planted_personal_data_does_not_leave(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    plain, chat = place.hosted(), place.hosted(api="chat")
    plain.complete([Request("a", Sampling(stop=("###", "ada@example.org")), text=TEXT)])
    turns = [Message("system", TEXT), Message("user", "fine"), Message("assistant", TEXT), Message("user", TEXT)]
    chat.complete([Request("a", Sampling(), messages=tuple(turns))])
    assert "I am [email], call [phone], pay with [card], log in with [secret]." in place.sent
    assert [planted for planted in PERSONAL if planted in place.sent + caplog.text + repr(place.events)] == []
    assert place.provider.seen[0].body["stop"] == ["###"]
    replaced = [event["kinds"] for event in place.events if event.get("message") == "replaced before sending"]
    assert replaced == [dict.fromkeys(("card", "email", "phone", "secret"), n) for n in (1, 3)]


def test_a_stop_string_that_stays_here_acts_all_the_same(place: Place) -> None:
    place.provider.answer = lambda body: "write to ada@example.org now"
    done = place.hosted().complete([Request("a", Sampling(stop=("ada@example.org",)), text="hello")])[0]
    assert (done.text, done.finish_reason) == ("write to ", "stop")


@pytest.mark.parametrize("planted", PERSONAL)
def test_blocking_names_the_kind_and_sends_nothing(place: Place, planted: str) -> None:
    hosted = place.hosted(privacy={"mode": "block"})
    requests = [Request("clean", Sampling(), text="hello"), Request("bad", Sampling(), text=f"I am {planted}")]
    with pytest.raises(DataError, match=r"request 'bad': not sent, it holds: (email|phone|card|secret)") as caught:
        hosted.complete(requests)
    assert planted not in str(caught.value)
    assert place.provider.seen == []


@pytest.mark.parametrize("mode", ["redact", "block"])
def test_a_score_of_redacted_text_would_be_another_texts(place: Place, mode: str) -> None:
    hosted = place.hosted(privacy={"mode": mode}, score_by_echo=True)
    with pytest.raises(DataError, match="holds: email"):
        hosted.score(["I am "], ["ada@example.org"])
    assert place.provider.seen == []


def test_off_and_chosen_kinds_send_as_told(place: Place) -> None:
    place.hosted(privacy={"mode": "off"}).complete([Request("a", Sampling(), text=TEXT)])
    place.hosted(privacy={"kinds": ["email"]}).complete([Request("a", Sampling(), text=TEXT)])
    assert place.provider.seen[0].body["prompt"] == TEXT
    assert place.provider.seen[1].body["prompt"] == TEXT.replace(PERSONAL[0], "[email]")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", f"https://user:{KEY}@host/v1"),
        ("address", f"https://host/v1?key={KEY}"),
        ("address", f"file:///{KEY}"),
        ("key_variable", KEY),
        ("key_variable", f"sk-{KEY}"),
    ],
)
def test_a_key_in_the_settings_is_refused_without_repeating_it(field: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validate(HostedSettings, {"address": "https://host/v1", "model": "m", field: value}, "test")
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("value", ["", f"{KEY}\nX-Other: {KEY}", f"{KEY} {KEY}", f"{KEY}é"])
def test_a_key_that_is_missing_or_broken_is_named_by_its_variable(value: str) -> None:
    settings = HostedSettings(address="https://host/v1", model="m", key_variable="THE_KEY")
    with pytest.raises(SettingsError, match="THE_KEY") as caught:
        Hosted(settings, environment={"THE_KEY": value})
    assert KEY not in str(caught.value)


def test_a_key_does_not_travel_unencrypted_unless_told_so() -> None:
    values = {"address": "http://10.0.0.5:8000/v1", "model": "m", "key_variable": "THE_KEY"}
    with pytest.raises(SettingsError, match="unencrypted"):
        Hosted(HostedSettings(**values), environment={"THE_KEY": KEY})
    Hosted(HostedSettings(**values, plain_http=True), environment={"THE_KEY": KEY}).release()
