"""A provider on loopback for tests: OpenAI's two endpoints with scripted troubles in front of a scripted completer."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rung.records.contracts import Request, Sampling
from rung.records.scripted import Scripted


@dataclass
class Trouble:
    """A reply instead of the right one."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: threading.Event | None = None
    drip: bool = False

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: Any
    raw: bytes


class FakeProvider:
    """`troubles` come first, one a request; `forever` stands for every reply. `answer` sees the request's JSON.

    It ignores stop strings, so that they must act on our side, and counts words as tokens.
    """

    def __init__(
        self,
        answer: Callable[[Any], str] = lambda body: " fine",
        troubles: Sequence[Trouble] = (),
        forever: Trouble | None = None,
    ) -> None:
        self.answer, self.troubles, self.forever = answer, list(troubles), forever
        self.seen: list[Seen] = []
        self.closing = threading.Event()
        self.address = ""
        self._lock = threading.Lock()

    def reply(self, seen: Seen) -> Trouble:
        with self._lock:
            self.seen.append(seen)
            trouble = self.forever or (self.troubles.pop(0) if self.troubles else None)
        return trouble or Trouble(body=self.right(seen.body))

    def right(self, body: Any) -> Any:
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 1
        request = Request("r", Sampling(max_new_tokens=limit), text=str(body.get("prompt") or body.get("messages")))
        if body.get("echo"):
            return echoed(body["prompt"])
        done = Scripted([self.answer(body)]).complete([request])[0]
        words = [" " + word for word in done.raw_text.split()]
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if done.hit_limit else "stop"}
        if "messages" in body:
            choice |= {"message": {"role": "assistant", "content": done.raw_text}}
            choice |= {"logprobs": {"content": [{"token": word, "logprob": -0.5} for word in words]}}
        else:
            choice |= {"text": done.raw_text, "logprobs": {"tokens": words, "token_logprobs": [-0.5] * len(words)}}
        usage = {"prompt_tokens": done.num_prompt_tokens, "completion_tokens": len(words)}
        return {"object": "x", "choices": [choice], "usage": usage}


def echoed(prompt: str) -> Any:
    """An echo in pieces of one letter, the first without a log-probability."""
    logprobs = {"tokens": list(prompt), "token_logprobs": [None] + [-float(ord(c) % 7) for c in prompt[1:]]}
    choice = {"text": prompt, "logprobs": logprobs, "finish_reason": "length"}
    return {"choices": [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": 0}}


@contextmanager
def serving(provider: FakeProvider) -> Iterator[FakeProvider]:
    """The provider on a port of loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers posts."""

        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # headers and body in one packet, or loopback waits 40 ms for the second

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            reply = provider.reply(Seen(self.path, dict(self.headers.items()), json.loads(raw), raw))
            if reply.wait is not None:
                reply.wait.wait(5)
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(1 << 20 if reply.drip else len(reply.content)))
            self.end_headers()
            try:
                while reply.drip and not provider.closing.wait(0.01):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                self.wfile.write(reply.content)
                self.wfile.flush()
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    provider.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        provider.closing.set()
        server.shutdown()
        server.server_close()


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.sleeps = 0.0, []
        self._lock = threading.Lock()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds
            self.sleeps.append(seconds)
