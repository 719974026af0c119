"""The server from outside: the official client, plain HTTP, and clients that misbehave."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from rich.console import Console
from starlette.requests import Request as HttpRequest
from tests.engine.engine_models import Made
from tests.engine.engine_online_models import Keep, endless

from rung.app.choices import Choices
from rung.app.commands.serve import serve
from rung.app.server.device import Readings, read_device
from rung.app.server.factory import create_app
from rung.app.server.key import Key, find_key
from rung.app.server.monitor import Monitor
from rung.app.server.refusals import Refusal
from rung.app.server.running import Running, listen
from rung.app.server.service import read_body
from rung.app.server.settings import LimitSettings, ServeSettings
from rung.base.errors import Interrupted, MissingDependency, SettingsError
from rung.base.events import Events
from rung.engine.engine import Engine
from rung.engine.online import Online, OnlineSettings
from rung.engine.score import Pair
from rung.engine.settings import EngineSettings
from rung.engine.tickets import Figures
from rung.records.chat.frame import Frame
from rung.records.contracts import Completion, Request, Sampling

ROOT = Path(__file__).parents[2]
KEY = "planted-key-0123456789"
PATIENCE = 30.0


@dataclass
class Up:
    """A server that runs."""

    address: str
    online: Online
    sink: Keep

    @property
    def openai(self) -> openai.OpenAI:
        http = openai.DefaultHttpxClient(verify=False)
        return openai.OpenAI(
            base_url=f"{self.address}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE, http_client=http
        )

    def http(self, key: str = KEY) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.address, headers={"Authorization": f"Bearer {key}"}, verify=False, timeout=PATIENCE
        )

    def post(self, path: str, **body: Any) -> httpx2.Response:
        with self.http() as http:
            return http.post(path, json={"model": "tiny", **body})

    def requests_seen(self) -> list[dict[str, Any]]:
        return [event for event in self.sink.events if event.get("message") == "request"]


@contextmanager
def serving(limits: dict[str, Any] | None = None, slots: int = 4, waiting: int = 64) -> Iterator[Up]:
    sink = Keep()
    events = Events([sink])
    online = Online(
        lambda: Engine(endless(), EngineSettings(num_slots=slots), events=events),
        OnlineSettings(max_waiting=waiting),
        events,
    )
    settings = ServeSettings(port=0, limits=LimitSettings(**(limits or {})), sample_seconds=0.05)
    with Running(create_app(online, "tiny", settings, Key(KEY), events), listen(settings)) as running:
        yield Up(running.address, online, sink)


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with serving({"body_bytes": 20_000, "new_tokens": 450}) as server:
        yield server


@pytest.fixture(scope="module")
def made() -> Made:
    return endless()


def offline(made: Made, text: str, seed: int, **sampling: Any) -> Completion:
    how = Sampling(**{"temperature": 1.0, "max_new_tokens": 16, **sampling})
    return Engine(made).complete([Request("x", how, seed=seed, text=text)])[0]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_models_are_listed(up: Up) -> None:
    [model] = up.openai.models.list().data
    assert model.id == "tiny"


def test_the_official_client_gets_what_the_engine_gives_offline(up: Up, made: Made) -> None:
    reply = up.openai.completions.create(
        model="tiny", prompt="hello", seed=7, max_tokens=20, temperature=0.8, top_p=0.9
    )
    expected = offline(made, "hello", 7, max_new_tokens=20, temperature=0.8, top_p=0.9)
    assert reply.choices[0].text == expected.text
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (6, len(expected.token_ids))


def test_many_clients_at_once_get_what_each_would_get_alone(up: Up, made: Made) -> None:
    def ask(number: int) -> str:
        time.sleep(0.003 * (number % 5))
        text = "ab cd ef"[: 1 + number % 8]
        body = {"model": "tiny", "prompt": text, "seed": number, "max_tokens": 5 + number % 20}
        return str(http.post("/v1/completions", json=body).json()["choices"][0]["text"])

    with ThreadPoolExecutor(12) as pool, up.http() as http:
        found = list(pool.map(ask, range(36)))
    alone = [
        Request("x", Sampling(temperature=1.0, max_new_tokens=5 + n % 20), seed=n, text="ab cd ef"[: 1 + n % 8])
        for n in range(36)
    ]
    assert found == [done.text for done in Engine(made).complete(alone)]


def test_lists_of_prompts_ids_and_several_answers(up: Up, made: Made) -> None:
    reply = up.openai.completions.create(model="tiny", prompt=["ab", "xyz"], n=2, seed=3, max_tokens=8)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert [reply.choices[i].text for i in (0, 2)] == [
        offline(made, text, 3, max_new_tokens=8).text for text in ("ab", "xyz")
    ]
    assert reply.choices[0].text != reply.choices[1].text
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 3 + 4
    ids = made.tokenizer.encode("ab")
    for prompt in (ids, [ids]):
        given = up.openai.completions.create(model="tiny", prompt=prompt, seed=3, max_tokens=8)
        assert given.choices[0].text == reply.choices[0].text


def test_log_probabilities_of_a_completion(up: Up, made: Made) -> None:
    choice = up.openai.completions.create(model="tiny", prompt="ab", seed=1, max_tokens=9, logprobs=1).choices[0]
    expected = offline(made, "ab", 1, max_new_tokens=9)
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.token_logprobs == pytest.approx(expected.raw_logprobs[: len(logprobs.tokens)])
    assert logprobs.text_offset is not None
    assert all(choice.text[at:].startswith(t) for at, t in zip(logprobs.text_offset, logprobs.tokens, strict=True))


def test_echo_scores_the_prompt_as_the_engine_does(up: Up, made: Made) -> None:
    body = {"echo": True, "logprobs": 1, "max_tokens": 0}
    start = made.tokenizer.start_ids
    [expected] = Engine(made).score_pairs([Pair(start, tuple(made.tokenizer.encode("naïve cat")))])
    choice = up.post("/v1/completions", prompt="naïve cat", **body).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("naïve cat", "length")
    assert "".join(choice["logprobs"]["tokens"]) == "naïve cat"
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected.logprobs)
    ids = [*start, *made.tokenizer.encode("cat")]
    whole = up.post("/v1/completions", prompt=ids, seed=2, **{**body, "max_tokens": 4}).json()["choices"][0]
    drawn = offline(made, "cat", 2, max_new_tokens=4)
    assert whole["text"] == made.tokenizer.decode(ids) + drawn.text
    values = whole["logprobs"]["token_logprobs"]
    assert values[0] is None, "nothing comes before the start token"
    assert values[4:] == pytest.approx(drawn.raw_logprobs[: len(values) - 4])


def test_a_chat_is_asked_in_the_frame_with_earlier_turns_as_examples(up: Up, made: Made) -> None:
    turns = [("user", "One?"), ("assistant", "Yes."), ("user", "Two?")]
    reply = up.openai.chat.completions.create(
        model="tiny",
        messages=[{"role": r, "content": c} for r, c in turns],  # type: ignore[misc]
        seed=5,
        max_tokens=30,
        logprobs=True,
    )
    expected = offline(made, Frame.prompt("Two?", [("One?", "Yes.")]), 5, max_new_tokens=30, stop=Frame.stop_strings)
    choice = reply.choices[0]
    assert choice.message.content == expected.text.lstrip()
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [t.logprob for t in choice.logprobs.content] == pytest.approx(
        expected.raw_logprobs[: len(choice.logprobs.content)]
    )
    assert "".join(t.token for t in choice.logprobs.content) == expected.text
    unlimited = up.openai.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "x"}], seed=1, stop=[" "]
    )
    assert unlimited.choices[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize(
    ("roles", "words"),
    [(["system", "user"], "system"), (["user", "assistant"], "last"), (["user", "user"], "assistant")],
)
def test_turns_that_the_frame_has_no_place_for_are_refused(up: Up, roles: list[str], words: str) -> None:
    messages: Any = [{"role": role, "content": "x"} for role in roles]
    with pytest.raises(openai.BadRequestError, match=words):
        up.openai.chat.completions.create(model="tiny", messages=messages)


def test_a_stream_joins_to_the_whole_and_counts(up: Up) -> None:
    plain: dict[str, Any] = {"model": "tiny", "prompt": ["ab", "c"], "seed": 3, "max_tokens": 20, "logprobs": 1}
    whole = up.openai.completions.create(**plain)
    chunks = list(up.openai.completions.create(**plain, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        pieces = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(piece.text for piece in pieces) == choice.text
        assert pieces[-1].finish_reason == choice.finish_reason
        given = [t for p in pieces if p.logprobs for t in p.logprobs.tokens or []]
        assert choice.logprobs is not None
        assert given == choice.logprobs.tokens
    assert chunks[-1].usage == whole.usage
    talk: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hm?"}], "seed": 4, "n": 2}
    said = up.openai.chat.completions.create(**talk, max_completion_tokens=20).choices
    parts = list(up.openai.chat.completions.create(**talk, max_completion_tokens=20, stream=True))
    assert parts[0].choices[0].delta.role == "assistant"
    for one in said:
        heard = [c.delta.content or "" for part in parts for c in part.choices if c.index == one.index]
        assert "".join(heard) == one.message.content


def test_server_sent_events_end_with_done_and_an_echo_comes_first(up: Up) -> None:
    reply = up.post("/v1/completions", prompt="ab", echo=True, stream=True, max_tokens=3)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[0])["choices"][0]["text"] == "ab"


def test_no_part_of_a_stop_string_is_streamed(up: Up, made: Made) -> None:
    free = offline(made, "hello", 3, max_new_tokens=60).text
    stop = free[9:13]
    body: dict[str, Any] = {"model": "tiny", "prompt": "hello", "seed": 3, "max_tokens": 60, "stop": ["zz", stop]}
    whole = up.openai.completions.create(**body).choices[0]
    assert whole.text == free[: free.find(stop)]
    assert whole.finish_reason == "stop"
    pieces = [c.choices[0] for c in up.openai.completions.create(**body, logprobs=0, stream=True)]
    assert "".join(piece.text for piece in pieces) == whole.text
    assert "".join(t for p in pieces if p.logprobs for t in p.logprobs.tokens or []) == whole.text
    raw = up.post("/v1/completions", **body).json()["choices"][0]
    assert raw["stop_reason"] == stop


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}])
def test_without_the_key_only_health_answers(up: Up, header: dict[str, str]) -> None:
    with httpx2.Client(base_url=up.address, headers=header) as http:
        for path in ("/v1/models", "/metrics", "/admin/memory", "/nothing"):
            refused = http.get(path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert http.post("/admin/release").status_code == 401
        assert http.get("/health").json()["ready"] is True
        assert http.get("/health/live").status_code == 200


def refused(reply: httpx2.Response) -> tuple[int, str, str]:
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return reply.status_code, error["code"], error["message"]


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"temprature": 1}, 400, "unknown_field", "did you mean 'temperature'"),
        ({"stream": True, "stream_options": {"include_usag": True}}, 400, "unknown_field", "include_usage"),
        ({"max_tokens": "5"}, 400, "invalid_value", "max_tokens"),
        ({"top_p": 0}, 400, "invalid_value", "top_p"),
        ({"n": 99}, 400, "over_limit", "at most 16"),
        ({"prompt": ["x"] * 65}, 400, "over_limit", "64"),
        ({"prompt": ["x"] * 30, "n": 16}, 400, "over_limit", "68"),
        ({"max_tokens": 451}, 400, "over_limit", "450"),
        ({"stop": ["x"] * 17}, 400, "over_limit", "16"),
        ({"stop": ""}, 400, "settings", "stop"),
        ({"max_tokens": 0}, 400, "invalid_value", "nothing"),
        ({"prompt": "x" * 500, "max_tokens": 100}, 400, "data", "512"),
        ({"prompt": [9999]}, 400, "data", "9999"),
        ({"prompt": []}, 400, "invalid_value", "no prompt"),
        ({"model": "gpt"}, 404, "model_not_found", "tiny"),
        ({"temperature": 1e-40}, 400, "invalid_value", "0.001"),
        ({"top_k": 1 << 70}, 400, "invalid_value", "top_k"),
        ({"logprobs": 5}, 400, "invalid_value", "logprobs"),
        ({"stream_options": {"include_usage": True}}, 400, "invalid_value", "stream"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(up: Up, body: Any, status: int, code: str, words: str) -> None:
    found = refused(up.post("/v1/completions", **{"prompt": "x", **body}))
    assert found[:2] == (status, code)
    assert words in found[2]


def test_other_mistakes_have_the_same_shape(up: Up) -> None:
    with up.http() as http:
        assert refused(http.get("/v2/nothing"))[:2] == (404, "not_found")
        assert refused(http.get("/v1/completions"))[0] == 405
        assert refused(http.post("/v1/completions", content=b"{"))[:2] == (400, "invalid_json")
        assert refused(http.post("/v1/completions", json={"model": "tiny"}))[:2] == (400, "missing_field")
        assert refused(http.post("/v1/completions", content=b'{"model":"tiny","prompt":"\\ud800"}'))[0] == 400
        assert refused(http.post("/v1/chat/completions", json={"model": "tiny", "messages": []}))[0] == 400


def test_an_oversize_body_is_refused_with_and_without_its_length(up: Up) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 1000

    with up.http() as http:
        assert refused(http.post("/v1/completions", content=b" " * 30_000))[:2] == (413, "body_too_large")
        assert refused(http.post("/v1/completions", content=pieces()))[:2] == (413, "body_too_large")


def test_an_oversize_body_is_not_read_to_its_end() -> None:
    taken: list[int] = []

    async def receive() -> dict[str, Any]:
        taken.append(1)
        return {"type": "http.request", "body": b" " * 1000, "more_body": len(taken) < 50}

    with pytest.raises(Refusal, match="larger than 2500"):
        asyncio.run(read_body(HttpRequest({"type": "http", "headers": []}, receive), 2500))
    assert len(taken) == 3


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_client_that_leaves_midway_frees_its_lane(up: Up, slow: threading.Event, path: str) -> None:
    asked = {"prompt": "x"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
    body = {"model": "tiny", **asked, "max_tokens": 400, "stream": True}
    before = len(up.requests_seen())
    with up.http() as http, http.stream("POST", path, json=body) as reply:
        next(reply.iter_lines())
    until(lambda: up.online.figures.num_running == 0 and len(up.requests_seen()) > before)
    assert up.requests_seen()[-1]["outcome"] == "disconnected"


def test_so_does_one_that_does_not_stream(up: Up, slow: threading.Event) -> None:
    before = len(up.requests_seen())
    with (
        httpx2.Client(base_url=up.address, headers={"Authorization": f"Bearer {KEY}"}, timeout=0.1) as http,
        pytest.raises(httpx2.ReadTimeout),
    ):
        http.post("/v1/completions", json={"model": "tiny", "prompt": ["x"] * 8, "max_tokens": 400})
    until(lambda: up.online.figures.num_running == 0 and len(up.requests_seen()) > before)
    assert up.requests_seen()[-1]["outcome"] == "disconnected"


def test_a_full_queue_says_when_to_come_again(slow: threading.Event) -> None:
    with serving(waiting=0) as server, server.http() as http:
        long = {"model": "tiny", "prompt": ["x"] * 4, "max_tokens": 400, "stream": True}
        with http.stream("POST", "/v1/completions", json=long) as reply:
            lines = reply.iter_lines()  # kept, for without its reader the connection is closed
            next(lines)
            full = http.post("/v1/completions", json={"model": "tiny", "prompt": "x"})
            assert (full.status_code, full.headers["retry-after"]) == (429, "1")
            assert full.json()["error"]["type"] == "rate_limit_error"


def test_what_takes_too_long_is_a_504_and_its_lane_is_free(slow: threading.Event) -> None:
    with serving({"request_seconds": 0.5}) as server:
        slow = server.post("/v1/completions", prompt="x", max_tokens=400)
        assert refused(slow)[:2] == (504, "timeout")
        streamed = server.post("/v1/completions", prompt="x", max_tokens=400, stream=True)
        assert json.loads(streamed.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]["code"] == "timeout"
        until(lambda: server.online.figures.num_running == 0)
        until(lambda: [seen["outcome"] for seen in server.requests_seen()] == ["timeout"] * 2)


def test_a_body_that_drips_is_not_waited_for() -> None:
    def dripping() -> Iterator[bytes]:
        yield b"{"
        time.sleep(0.4)
        yield b"}"

    with serving({"body_seconds": 0.1}) as server, server.http() as http:
        assert refused(http.post("/v1/completions", content=dripping()))[:2] == (408, "incomplete")


def test_the_model_is_released_and_comes_back(up: Up) -> None:
    body: dict[str, Any] = {"prompt": "ab", "seed": 1, "max_tokens": 9}
    before = up.post("/v1/completions", **body).json()["choices"]
    with up.http() as http:
        held = http.get("/admin/memory").json()
        assert held["weights_bytes"] > 0
        assert held["cache_bytes"] > 0
        assert held["resident_bytes"] > held["weights_bytes"]
        assert (held["device"], held["device_present"], held["device_used_ratio"]) == ("cpu", False, None)
        assert "no accelerator" in held["device_note"]
        loads = held["num_loads"]
        assert http.post("/admin/release").json()["seconds"] >= 0
        free = http.get("/admin/memory").json()
        assert (free["weights_bytes"], free["cache_bytes"], free["model_loaded"]) == (0, 0, False)
        assert http.get("/health").json()["model_loaded"] is False
        assert up.post("/v1/completions", **body).json()["choices"] == before
        again = http.get("/admin/memory").json()
    assert (again["num_loads"], again["weights_bytes"]) == (loads + 1, held["weights_bytes"])
    assert again["last_load_seconds"] > 0


def test_metrics_are_those_of_the_document_and_count(up: Up) -> None:
    before = len(up.requests_seen())
    up.post("/v1/completions", prompt="ab", max_tokens=5)
    up.post("/v1/completions", prompt="ab", max_tokens=5, stream=True)
    until(lambda: len(up.requests_seen()) >= before + 2)
    with up.http() as http:
        text = http.get("/metrics").text
    families = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    documented = set(re.findall(r"^\| `(rung_\w+)", (ROOT / "docs" / "serving.md").read_text(), re.MULTILINE))
    device = {"rung_device_memory_bytes", "rung_device_memory_total_bytes", "rung_device_used_ratio"}
    assert families == documented - device
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert int(values['rung_requests_total{endpoint="/v1/completions",outcome="ok"}']) >= 2
    assert int(values['rung_request_seconds_count{endpoint="/v1/completions"}']) >= 2
    assert int(values['rung_first_text_seconds_bucket{endpoint="/v1/completions",le="+Inf"}']) >= 1
    assert int(values['rung_tokens_total{kind="completion"}']) > 0
    assert values['rung_device_present{device="cpu",note="no accelerator: the model runs on the processor"}'] == "0"
    assert all(re.fullmatch(r"[\d.e+-]+", value) for value in values.values())


def test_the_key_stands_in_no_log_error_or_metric(up: Up) -> None:
    with up.http() as http:
        shown = [
            http.get(f"/v1/models?key={KEY}").text,
            http.get(f"/{KEY}").text,
            http.post("/v1/completions", json={"model": KEY, "prompt": "x"}).text,
            http.post("/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": KEY}).text,
            http.get("/metrics").text,
            http.get("/health").text,
        ]
    assert KEY not in "".join(shown)
    until(lambda: len(up.requests_seen()) > 5)
    assert KEY not in json.dumps(up.sink.events)
    assert KEY not in repr(Key(KEY))
    assert {event["endpoint"] for event in up.requests_seen()} <= {
        "/v1/models", "/v1/completions", "/v1/chat/completions", "/health", "/health/live", "/metrics",
        "/admin/memory", "/admin/release", "other",
    }  # fmt: skip


def test_where_the_key_comes_from() -> None:
    key, shown = find_key(ServeSettings(), {"RUNG_SERVE_KEY": KEY})
    assert (key.accepts(f"bearer {KEY}".encode()), key.accepts(KEY.encode()), shown) == (True, False, "")
    made, told = find_key(ServeSettings(host="0.0.0.0"), {})
    assert len(told) > 30
    assert made.accepts(f"Bearer {told}".encode())
    assert find_key(ServeSettings(key_env="OTHER"), {"OTHER": KEY, "RUNG_SERVE_KEY": "x" * 20})[0].accepts(
        f"Bearer {KEY}".encode()
    )
    assert find_key(ServeSettings(no_key=True), {})[0].accepts(b"")
    with pytest.raises(SettingsError, match="needs a key"):
        find_key(ServeSettings(no_key=True, host="0.0.0.0"), {})
    with pytest.raises(SettingsError, match="shorter"):
        find_key(ServeSettings(), {"RUNG_SERVE_KEY": "short"})


def test_a_drop_in_speed_is_warned_of_once_and_samples_are_told() -> None:
    sink = Keep()
    monitor, figures, now = Monitor(Events([sink])), Figures(), 0.0
    for speed in [100.0] * 6 + [30.0, 30.0, 100.0]:
        tokens, now = 400, now + 10
        figures = Figures(
            num_steps=figures.num_steps + 100,
            num_tokens=figures.num_tokens + tokens,
            busy_seconds=figures.busy_seconds + tokens / speed,
        )
        sample = monitor.take(now, figures, Readings("cpu", 1000))
        assert sample.tokens_per_second == pytest.approx(speed)
    idle = monitor.take(now + 10, figures, Readings("cpu", 1000))
    assert idle.tokens_per_second == 0
    assert [event["tokens_per_second"] for event in sink.events if event["kind"] == "log"] == [30.0]
    told = {event["name"] for event in sink.events if event["kind"] == "metric"}
    assert told == {"serve/tokens_per_second", "serve/busy", "serve/resident_memory_bytes"}
    assert read_device("cpu").used is None


def told_by(notes: Console) -> str:
    assert isinstance(notes.file, io.StringIO)
    return notes.file.getvalue()


@pytest.mark.parametrize("in_time", [True, False])
def test_the_command_serves_until_sigterm_and_lets_work_end(
    monkeypatch: pytest.MonkeyPatch, slow: threading.Event, in_time: bool
) -> None:
    monkeypatch.delenv("RUNG_SERVE_KEY", raising=False)
    notes, found = Console(file=io.StringIO(), width=200), dict[str, Any]()

    def client() -> None:
        until(lambda: "shown only now" in told_by(notes))
        [address] = re.findall(r"on (http://127\.0\.0\.1:\d+)/v1", told_by(notes))
        [key] = re.findall(r"shown only now: (\S+)", told_by(notes))
        body = {"model": "tiny:llama", "prompt": "x", "stream": True, "max_tokens": 60 if in_time else 450}
        with httpx2.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE) as http:
            until(lambda: http.get("/health").status_code == 200)
            with http.stream("POST", "/v1/completions", json=body) as reply:
                lines = reply.iter_lines()
                next(lines)
                os.kill(os.getpid(), signal.SIGTERM)
                if in_time:
                    slow.set()
                found["lines"] = [line for line in lines if line]
        found["key"] = key

    thread = threading.Thread(target=client)
    thread.start()
    listening = {"port": 0, "stop_seconds": 30 if in_time else 1}
    if not in_time:
        monkeypatch.setattr(Online, "close", lambda self, seconds, close=Online.close: close(self, 0.0))
    with nullcontext() if in_time else pytest.raises(Interrupted, match="given up"):
        serve("tiny:llama", Choices(), notes, listening, slots=4, max_queue=8)
    thread.join(PATIENCE)
    assert ("[DONE]" in found["lines"][-1]) == in_time
    assert ("stopping" in found["lines"][-1]) != in_time
    assert told_by(notes).count(found["key"]) == 1


def test_what_the_command_cannot_do_is_said_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Console(file=io.StringIO())
    with pytest.raises(SettingsError, match="a key there"):
        serve("tiny:llama", Choices(), notes, {"host": "0.0.0.0", "no_key": True}, slots=4, max_queue=8)
    with pytest.raises(SettingsError, match="port"):
        serve("tiny:llama", Choices(), notes, {"port": 99999}, slots=4, max_queue=8)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="fastapi") as caught:
        serve("tiny:llama", Choices(), notes, {"port": 99999}, slots=4, max_queue=8)
    assert "rung[serve]" in caught.value.hint
