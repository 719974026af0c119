"""The outermost layer: the key, the access log, the counts, and an answer even where the server itself has a defect.

Neither headers, nor bodies, nor queries, nor unknown paths reach the log: any of them may hold a secret.
"""

from __future__ import annotations

import time
import traceback

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rung.app.server.key import Key
from rung.app.server.metrics import Metrics
from rung.app.server.refusals import Refusal
from rung.base.events import Events

__all__ = ["OPEN", "Gate"]

OPEN = frozenset({"/health", "/health/live"})
_OUTCOMES = {401: "unauthorised", 408: "timeout", 413: "oversize", 429: "queue_full", 503: "stopping", 504: "timeout"}


class Gate:
    """Wraps `app`, whose paths are `endpoints`. A handler that knows better than its status says so in
    `request.state.outcome`."""

    def __init__(self, app: ASGIApp, endpoints: frozenset[str], key: Key, metrics: Metrics, events: Events) -> None:
        self._app, self._endpoints, self._key = app, endpoints, key
        self._metrics, self._events = metrics, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request, or the lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            """Remember the status."""
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope.setdefault("state", {})
        try:
            await self._answer(scope, receive, watched)
        except Exception as error:  # noqa: BLE001 - the client gets an answer, and the log what it takes to mend it
            kind = type(error).__name__
            self._events.log("a defect of the server", level="error", error=kind, trace=traceback.format_exc())
            if not status:
                await Refusal(500, "error", "a defect of the server").response()(scope, receive, watched)
        finally:
            self._note(scope, status, time.monotonic() - start)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        shown = dict(scope["headers"]).get(b"authorization", b"")
        if scope["path"] in OPEN or self._key.accepts(shown):
            await self._app(scope, receive, send)
            return
        refusal = Refusal(401, "invalid_api_key", "the key is missing or wrong: Authorization: Bearer KEY")
        await refusal.response()(scope, receive, send)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        endpoint = scope["path"] if scope["path"] in self._endpoints else "other"
        usual = _OUTCOMES.get(status, "ok" if 200 <= status < 400 else "refused" if 400 <= status < 500 else "error")
        outcome = scope["state"].get("outcome", usual)
        self._metrics.count(endpoint, outcome, seconds)
        self._events.log(
            "request", endpoint=endpoint, method=scope["method"], status=status, outcome=outcome,
            seconds=round(seconds, 3),
        )  # fmt: skip
