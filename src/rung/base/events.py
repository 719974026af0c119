"""Events: the one way a stage says what it does. Sinks decide where it goes (file, TensorBoard, progress bar).

A metric is a number over steps, a log line is a structured message, progress is (done, total) of something that
takes longer than two seconds. Nothing here prints, and no secret of the environment gets past here.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from rung.base import trace
from rung.base.secrets import redact, redact_all

__all__ = ["Events", "JsonLines", "Sink"]


class Sink(Protocol):
    """Receives every event as a plain dictionary with at least `kind`, `time` and the bound context."""

    def handle(self, event: dict[str, Any]) -> None:
        """Take one event; must not raise for an unknown kind."""

    def close(self) -> None:
        """Flush and release."""


class JsonLines:
    """Appends every event to a file, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def handle(self, event: dict[str, Any]) -> None:
        """Write the event, except progress ticks, which would swamp the file."""
        if event["kind"] != "progress":
            self._file.write(json.dumps(event, ensure_ascii=False, default=_as_text) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _as_text(value: Any) -> str:
    return redact(str(value))


class Events:
    """An emitter with bound context (run id, stage); `bind` gives a child that adds to it."""

    def __init__(self, sinks: Iterable[Sink] = (), **context: Any) -> None:
        self._sinks, self._context = list(sinks), context

    def bind(self, **context: Any) -> Events:
        """The same sinks with more context."""
        return Events(self._sinks, **{**self._context, **context})

    def log(self, message: str, level: str = "info", **fields: Any) -> None:
        """A structured line; `level` is debug, info, warning or error."""
        self._emit("log", message=message, level=level, **fields)

    def degraded(self, what: str, how: str) -> None:
        """An optional part is gone and the run goes on: said once here and collected into the manifest."""
        self._emit("degraded", what=what, how=how, level="warning", message=f"degraded: {what}: {how}")

    def metric(self, name: str, value: float, step: int) -> None:
        """One point of a curve."""
        self._emit("metric", name=name, value=float(value), step=step)

    def progress(self, name: str, done: float, total: float, unit: str = "") -> None:
        """How far `name` is; sinks work out rate and time left."""
        self._emit("progress", name=name, done=done, total=total, unit=unit)

    @contextlib.contextmanager
    def span(self, name: str, *, export: bool = False, **fields: Any) -> Iterator[None]:
        """Time a piece of work; emitted when it ends, with its seconds, its place in the trace and whether it failed.

        Spans inside it, in this thread, are below it; with `export` those of processes and threads started by it too.
        """
        start, begun, failed, parent = time.time(), time.monotonic(), True, trace.here()
        own = trace.new_span(parent)
        try:
            with trace.entered(own), trace.exported(own) if export else contextlib.nullcontext():
                yield
            failed = False
        finally:
            place = {"trace_id": own.trace_id, "span_id": own.span_id, "parent_id": parent.span_id if parent else ""}
            self._emit(
                "span", name=name, start=start, seconds=time.monotonic() - begun, failed=failed, **place, **fields
            )

    def relay(self, event: dict[str, Any], **context: Any) -> None:
        """An event of another process, as it was there, with this emitter's context added."""
        for sink in self._sinks:
            sink.handle({**self._context, **event, **context})

    def _emit(self, kind: str, **fields: Any) -> None:
        event = redact_all({"kind": kind, "time": time.time(), **self._context, **fields})
        for sink in self._sinks:
            sink.handle(event)
