"""The trace of a run as a file: one span a line, in OpenTelemetry's own file format (OTLP as JSON lines).

No collector is needed to write or read it, and no library: a span is an id, a parent, a name and two times. Whoever has
a collector points its `otlpjsonfile` receiver at the file.
Source: OpenTelemetry Protocol File Exporter and OTLP/JSON, opentelemetry.io/docs/specs/otel/protocol/file-exporter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rung
from rung.pipeline.ledger import mend

__all__ = ["FILE_NAME", "Span", "SpanFile", "read_spans"]

FILE_NAME = "trace.jsonl"
_INTERNAL, _OK, _ERROR = 1, 1, 2
_OWN = ("kind", "time", "name", "start", "seconds", "failed", "trace_id", "span_id", "parent_id")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of work: `start` in seconds since 1970; `parent_id` is empty for the first of a trace."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start: float
    seconds: float
    failed: bool
    attributes: Mapping[str, Any] = field(default_factory=dict)


class SpanFile:
    """A sink that appends every `span` event to the file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        mend(self._path)

    def handle(self, event: dict[str, Any]) -> None:
        """Write a span; the rest passes by."""
        if event["kind"] == "span" and "span_id" in event:
            line = json.dumps(_as_otlp(event), ensure_ascii=False, default=str) + "\n"
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)

    def close(self) -> None:
        """Nothing is held."""


def read_spans(folder: Path) -> list[Span]:
    """All spans of a run, in the order in which they ended; lines that are none are left out, since a picture of the
    time decides nothing."""
    path = folder / FILE_NAME
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [span for line in lines if (span := _read(line)) is not None]


def _as_otlp(event: Mapping[str, Any]) -> dict[str, Any]:
    start = int(event["start"] * 1e9)
    attributes = {key: value for key, value in event.items() if key not in _OWN}
    span = {
        "traceId": event["trace_id"],
        "spanId": event["span_id"],
        "parentSpanId": event["parent_id"],
        "name": event["name"],
        "kind": _INTERNAL,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + int(event["seconds"] * 1e9)),
        "attributes": [{"key": f"rung.{key}", "value": _value(value)} for key, value in attributes.items()],
        "status": {"code": _ERROR if event["failed"] else _OK},
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "rung"}}]}
    scope = {"name": "rung", "version": rung.__version__}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": [span]}]}]}


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def _read(line: str) -> Span | None:
    try:
        span = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        start, end = int(span["startTimeUnixNano"]) / 1e9, int(span["endTimeUnixNano"]) / 1e9
        rows = {str(row["key"]).removeprefix("rung."): next(iter(row["value"].values())) for row in span["attributes"]}
        return Span(
            trace_id=str(span["traceId"]),
            span_id=str(span["spanId"]),
            parent_id=str(span["parentSpanId"]),
            name=str(span["name"]),
            start=start,
            seconds=end - start,
            failed=span["status"]["code"] == _ERROR,
            attributes=rows,
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, StopIteration):
        return None
