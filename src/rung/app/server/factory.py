"""The application: its paths, and what runs beside them while it is up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pydantic
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from rung.app.server.chats import Chats
from rung.app.server.completions import Completions
from rung.app.server.device import read_device, resident_bytes
from rung.app.server.flow import Flow
from rung.app.server.forms import Offer
from rung.app.server.gate import Gate
from rung.app.server.key import Key
from rung.app.server.metrics import Metrics
from rung.app.server.monitor import Monitor
from rung.app.server.own import CompleteForm, Counted, CountForm, ModelShown, ScoredPairs, ScoreForm, read_own
from rung.app.server.protocol import ChatRequest, CompletionRequest
from rung.app.server.refusals import Refusal, refusal_of
from rung.app.server.service import Service, answer, arrived, scored, whole
from rung.app.server.settings import ServeSettings
from rung.app.server.shapes import ModelCard, ModelList
from rung.base.errors import RungError
from rung.base.events import Events
from rung.engine.online import Online

__all__ = ["create_app"]


class Health(pydantic.BaseModel):
    """`live`: the engine's thread runs. `ready`: it takes requests."""

    live: bool
    ready: bool
    model_loaded: bool
    waiting: int
    running: int


class MemoryShown(pydantic.BaseModel):
    """Bytes; `device_note` says why the device's own figures are null where they are."""

    model_loaded: bool
    weights_bytes: int
    cache_bytes: int
    resident_bytes: int | None
    device: str
    device_present: bool
    device_allocated_bytes: int | None
    device_total_bytes: int | None
    device_used_ratio: float | None
    device_note: str
    num_loads: int
    last_load_seconds: float


class Released(pydantic.BaseModel):
    """What a release gave back."""

    seconds: float
    resident_bytes_before: int | None
    resident_bytes_after: int | None


def create_app(
    online: Online,
    model: str,
    settings: ServeSettings,
    key: Key,
    events: Events,
    *,
    facts: Callable[[], Mapping[str, Any]] = dict,
) -> ASGIApp:
    """The whole server around a started or unstarted `online`, which it starts and closes itself.

    Args:
        online: the engine.
        model: the name it is served under.
        settings: limits and how to stop.
        key: who may come in.
        events: receives the access log, samples and warnings.
        facts: what a manifest says about the loaded model, for recipes that use this server.
    """
    service = Service(
        online,
        Offer(model, online.intake, settings.limits, online.most),
        settings,
        Metrics(),
        Monitor(events),
        int(time.time()),
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        """Engine and samples run as long as the server."""
        online.start()
        sampling = asyncio.create_task(_sample(service))
        yield
        sampling.cancel()
        await asyncio.to_thread(online.close, 0.0)
        events.log("the server has stopped", given_up=online.num_given_up)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RungError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    _add_api(app, service)
    _add_own(app, service, facts)
    _add_operations(app, service)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    return Gate(app, paths, key, service.metrics, events)


def _add_api(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> Response:
        """The served model."""
        card = ModelCard(
            id=service.offer.model, created=service.started, max_model_len=service.offer.intake.max_context
        )
        return _json(ModelList(data=[card]))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        """Bare text goes on."""
        return await answer(service, request, CompletionRequest, Completions)

    @app.post("/v1/chat/completions")
    async def chats(request: Request) -> Response:
        """A question is answered in the frame."""
        return await answer(service, request, ChatRequest, Chats)


def _add_own(app: FastAPI, service: Service, facts: Callable[[], Mapping[str, Any]]) -> None:
    intake = service.offer.intake

    @app.get("/v1/rung/model")
    async def model() -> Response:
        """What is served, what it can do, how it was loaded."""
        able = service.online.able
        return _json(ModelShown(model=service.offer.model, able=able, facts=dict(facts())))

    @app.post("/v1/rung/complete")
    async def complete(request: Request) -> Response:
        """The engine's own requests and completions."""
        form = read_own(CompleteForm, await arrived(service, request))
        flow = Flow(service.online, await asyncio.to_thread(form.checked, service.offer))
        await flow.submit(service.settings.limits.request_seconds, False)
        return await whole(request, form, flow)

    @app.post("/v1/rung/score")
    async def score(request: Request) -> Response:
        """Log-probabilities of continuations after prompts, tokenised apart."""
        form = read_own(ScoreForm, await arrived(service, request))
        pairs = await asyncio.to_thread(form.pairs, intake)
        return _json(ScoredPairs(scored=await scored(service, pairs)))

    @app.post("/v1/rung/count")
    async def count(request: Request) -> Response:
        """Lengths of texts in tokens."""
        form = read_own(CountForm, await arrived(service, request))
        lengths = [len(ids) for ids in await asyncio.to_thread(intake.tokenizer.encode_batch, form.texts)]
        return _json(Counted(counts=lengths))


def _add_operations(app: FastAPI, service: Service) -> None:
    online = service.online

    @app.get("/health")
    async def health() -> Response:
        """Liveness and readiness; 503 where no request would be taken."""
        figures, live, ready = online.figures, online.alive, online.alive and not online.stopping
        shown = Health(
            live=live, ready=ready, model_loaded=figures.loaded, waiting=figures.num_waiting,
            running=figures.num_running,
        )  # fmt: skip
        return _json(shown, 200 if ready else 503)

    @app.get("/health/live")
    async def live() -> Response:
        """200 as long as the engine's thread runs."""
        return Response(status_code=200 if online.alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        figures = online.figures
        text = service.metrics.text(figures, service.monitor.last, read_device(figures.memory.device))
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/admin/memory")
    async def memory() -> Response:
        """What the model takes."""
        return _json(_memory(online))

    @app.post("/admin/release")
    async def release() -> Response:
        """Unload the weights as soon as nothing runs."""
        before = resident_bytes()
        seconds = await asyncio.wrap_future(online.release())
        return _json(Released(seconds=seconds, resident_bytes_before=before, resident_bytes_after=resident_bytes()))


def _memory(online: Online) -> MemoryShown:
    figures = online.figures
    readings = read_device(figures.memory.device)
    return MemoryShown(
        model_loaded=figures.loaded,
        weights_bytes=figures.memory.weights,
        cache_bytes=figures.memory.cache,
        resident_bytes=readings.resident_bytes,
        device=readings.device,
        device_present=readings.present,
        device_allocated_bytes=readings.allocated_bytes,
        device_total_bytes=readings.total_bytes,
        device_used_ratio=readings.used,
        device_note=readings.note,
        num_loads=figures.num_loads,
        last_load_seconds=figures.load_seconds,
    )


async def _sample(service: Service) -> None:
    while True:
        figures = service.online.figures
        service.monitor.take(time.monotonic(), figures, read_device(figures.memory.device))
        await asyncio.sleep(service.settings.sample_seconds)


async def _refused(_: Request, error: Exception) -> Response:
    if isinstance(error, Refusal):
        return error.response()
    if isinstance(error, RungError):
        return refusal_of(error).response()
    assert isinstance(error, HTTPException)
    return Refusal(error.status_code, "not_found" if error.status_code == 404 else "error", error.detail).response()


def _json(body: pydantic.BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(), status, media_type="application/json")
