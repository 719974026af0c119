"""What the endpoints share: the engine, what is offered, and how one request is answered from body to last byte."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pydantic
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from rung.app.server.flow import Flow
from rung.app.server.forms import End, Form, Offer
from rung.app.server.metrics import Metrics
from rung.app.server.monitor import Monitor
from rung.app.server.protocol import Drawing, read
from rung.app.server.refusals import Refusal
from rung.app.server.settings import ServeSettings
from rung.engine.online import Online
from rung.engine.score import Pair
from rung.records.contracts import Scored

__all__ = ["Service", "Whole", "answer", "arrived", "read_body", "scored", "whole"]

D = TypeVar("D", bound=Drawing)


class Whole(Protocol):
    """A kind of request that can be answered in one object."""

    def whole(self, ends: Sequence[End]) -> pydantic.BaseModel:
        """The answer in one object."""


class _EventStream(StreamingResponse):
    """Server-sent events; however it ends, and even if it never begins, the engine is told."""

    def __init__(self, events: AsyncIterator[str], request: HttpRequest, flow: Flow) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._flow = flow
        # until the events say otherwise
        request.state.outcome = "disconnected"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._flow.leave()


@dataclass(frozen=True)
class Service:
    """Everything behind the endpoints."""

    online: Online
    offer: Offer
    settings: ServeSettings
    metrics: Metrics
    monitor: Monitor
    started: int


async def read_body(request: HttpRequest, most: int) -> bytes:
    """The body, refused before it is read to its end where it is too large.

    Raises:
        Refusal: 413; 400 where the client went away before it was whole.
    """
    announced = request.headers.get("content-length", "0")
    chunks, size = [], int(announced) if announced.isdecimal() else 0
    if size <= most:
        size = 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    break
                chunks.append(chunk)
        except ClientDisconnect:
            raise Refusal(400, "incomplete", "the body did not arrive") from None
    if size > most:
        raise Refusal(413, "body_too_large", f"the body is larger than {most} bytes")
    return b"".join(chunks)


async def answer(service: Service, request: HttpRequest, model: type[D], make: Callable[[D, Offer], Form]) -> Response:
    """Read, check, generate, answer.

    Raises:
        Refusal, RungError: see `rung.app.server.refusals`.
    """
    start, limits = time.monotonic(), service.settings.limits
    asked = read(model, await arrived(service, request))
    form = await asyncio.to_thread(make, asked, service.offer)
    if form.pairs:
        form.scored(await scored(service, form.pairs))
    flow = Flow(service.online, form.requests)
    await flow.submit(limits.request_seconds, bool(asked.stream))
    if asked.stream:
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return _EventStream(_events(service, request, form, flow, start=start, usage=usage), request, flow)
    return await whole(request, form, flow)


async def arrived(service: Service, request: HttpRequest) -> bytes:
    """The body, within the limits of size and time.

    Raises:
        Refusal: 408, 413; 400 where the client went away.
    """
    limits = service.settings.limits
    try:
        return await asyncio.wait_for(read_body(request, limits.body_bytes), limits.body_seconds)
    except TimeoutError:
        raise Refusal(408, "incomplete", "the body did not arrive in time") from None


async def scored(service: Service, pairs: Sequence[Pair]) -> list[Scored]:
    """The scores of `pairs`, within the time of a request.

    Raises:
        Refusal: 504.
    """
    seconds = service.settings.limits.request_seconds
    try:
        return await asyncio.wait_for(asyncio.wrap_future(service.online.score(pairs)), seconds)
    except TimeoutError:
        raise Refusal(504, "timeout", "the prompts were not scored in time") from None


async def whole(request: HttpRequest, form: Whole, flow: Flow) -> Response:
    """The answer in one object, unless the client goes away first.

    Raises:
        Refusal: a request failed.
    """
    work, gone = asyncio.create_task(flow.finish()), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            request.state.outcome = "disconnected"
            return Response(status_code=499)
        return Response(form.whole(work.result()).model_dump_json(), media_type="application/json")
    finally:
        flow.leave()
        for task in (work, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Refusal):
                await task


async def _disconnected(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(
    service: Service, request: HttpRequest, form: Form, flow: Flow, *, start: float, usage: bool
) -> AsyncIterator[str]:
    """The events. A client that goes away ends this generator from outside, wherever it stands."""
    first = True
    try:
        for chunk in form.opening():
            yield f"data: {chunk.model_dump_json()}\n\n"
        async for index, news in flow.news():
            if first and news.text:
                first = False
                service.metrics.first_text(request.url.path, time.monotonic() - start)
            yield f"data: {form.chunk(index, news).model_dump_json()}\n\n"
        if usage:
            yield f"data: {form.closing(flow.ends).model_dump_json()}\n\n"
        # said before the last event: who has read it may leave before this generator gets to run again
        request.state.outcome = "ok"
        yield "data: [DONE]\n\n"
    except Refusal as refusal:
        request.state.outcome = refusal.code
        yield f"data: {refusal.body()}\n\n"
