"""The one place that talks to a provider. Brings the openai client, and keeps from it what it need not know.

The key is put on a request by a hook, last: the client itself, its errors and its representation never hold it. Other
headers than those named here are taken off, so that neither the machine nor somebody's other keys travel along.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx2
import openai

from rung.engine.hosted.body import Body
from rung.engine.hosted.failure import Failure
from rung.engine.hosted.settings import HostedSettings
from rung.engine.redact import redact

__all__ = ["Wire"]

_SENT_HEADERS = frozenset({"host", "accept", "connection", "content-length", "content-type", "transfer-encoding"})
_RETRIED = frozenset({408, 409, 429})
_SHOWN = 200
_HINTS = {
    401: "the key was refused: check the variable that key_variable names",
    403: "the key may not do this: check the variable that key_variable names",
    404: "check address, api and model",
}


class _Refused(httpx2.RemoteProtocolError):
    """A reply that we stop reading."""


class _Bounded(httpx2.SyncByteStream):
    """A reply's bytes, up to a size and a time; a read timeout alone would let a slow server drip for ever."""

    def __init__(self, inner: httpx2.SyncByteStream, most_bytes: int, seconds: float) -> None:
        self._inner, self._most_bytes, self._until = inner, most_bytes, time.monotonic() + seconds

    def __iter__(self) -> Iterator[bytes]:
        num_bytes = 0
        for chunk in self._inner:
            num_bytes += len(chunk)
            if num_bytes > self._most_bytes:
                raise _Refused(f"the reply is longer than {self._most_bytes} bytes")
            if time.monotonic() > self._until:
                raise httpx2.ReadTimeout("the reply did not end in time")
            yield chunk

    def close(self) -> None:
        self._inner.close()


class Wire:
    """Sends bodies and brings back bytes or a failure; raises nothing of the client's."""

    def __init__(self, settings: HostedSettings, key: str) -> None:
        self._settings, self._scrub = settings, _scrubber(key)
        http = openai.DefaultHttpxClient(
            follow_redirects=False, event_hooks={"request": [_dresser(key)], "response": [self._bound]}
        )
        self._client = openai.OpenAI(
            api_key="put on by the hook",
            base_url=settings.address,
            max_retries=0,
            timeout=settings.timeout_seconds,
            http_client=http,
        )

    def send(self, body: Body) -> bytes | Failure:
        """One attempt."""
        return self.post("/chat/completions" if body.chat else "/completions", body.fields)

    def post(self, path: str, fields: Mapping[str, Any]) -> bytes | Failure:
        """One attempt to post `fields` to a path below the address."""
        return self._attempt(lambda: self._client.post(path, cast_to=httpx2.Response, body=dict(fields)))

    def get(self, path: str) -> bytes | Failure:
        """One attempt to read a path below the address."""
        return self._attempt(lambda: self._client.get(path, cast_to=httpx2.Response))

    def _attempt(self, ask: Callable[[], httpx2.Response]) -> bytes | Failure:
        try:
            return ask().content
        except openai.APIStatusError as error:
            return self._of_status(error)
        except openai.APITimeoutError as error:
            connected = not isinstance(error.__cause__, httpx2.ConnectTimeout)
            return Failure(f"no whole answer within {self._settings.timeout_seconds:g} s", True, charged=connected)
        except openai.APIConnectionError as error:
            return self._of_connection(error.__cause__)
        except openai.OpenAIError as error:
            return Failure(f"the client gave up ({type(error).__name__})", retryable=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _bound(self, response: httpx2.Response) -> None:
        """Before a reply is read: refuse compression, which hides its size, and put the limits on."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _Refused("the reply is compressed, which was not asked for")
        assert isinstance(response.stream, httpx2.SyncByteStream)
        limit = self._settings.limits.response_bytes
        response.stream = _Bounded(response.stream, limit, self._settings.timeout_seconds)

    def _of_status(self, error: openai.APIStatusError) -> Failure:
        status = error.status_code
        said = self._scrub(_message(error.body))
        return Failure(
            f"the server answered {status}" + (f": {said}" if said else ""),
            retryable=status in _RETRIED or status >= 500,
            retry_after=_retry_after(error.response.headers),
            hint=_HINTS.get(status, ""),
        )

    def _of_connection(self, cause: BaseException | None) -> Failure:
        if isinstance(cause, _Refused):
            return Failure(str(cause), retryable=False, charged=True)
        connected = not isinstance(cause, httpx2.ConnectError)
        return Failure(f"the connection failed ({type(cause).__name__})", True, charged=connected, hint=_HINTS[404])


def _dresser(key: str) -> Callable[[httpx2.Request], None]:
    def dress(request: httpx2.Request) -> None:
        """Leave the headers that are needed, and add ours."""
        for name in [name for name in request.headers if name.lower() not in _SENT_HEADERS]:
            del request.headers[name]
        request.headers["user-agent"] = "rung"
        request.headers["accept-encoding"] = "identity"
        if key:
            request.headers["authorization"] = f"Bearer {key}"

    return dress


def _scrubber(key: str) -> Callable[[str], str]:
    def scrub(text: str) -> str:
        """A server's words as they may be shown: one short line, no key, no secret, no control characters."""
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return redact(line, secrets=[key])[0][:_SHOWN]

    return scrub


def _message(body: object) -> str:
    """What an error reply says, where it says it."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    said = error.get("message", "") if isinstance(error, Mapping) else error
    return said if isinstance(said, str) else ""


def _retry_after(headers: httpx2.Headers) -> float:
    """Seconds the server asks for: a number or a date (RFC 9110, section 10.2.3); 0 where it asks for nothing."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, min(float(value), 1e6))
    except ValueError:
        date = email.utils.parsedate_tz(value)
        return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else 0.0
