"""Where in a trace this process is: one id for the whole run, a span for each piece of work, parents by name.

Ids and the text that carries them to another process are W3C Trace Context's (`traceparent`, version 00), so that
OpenTelemetry's tools can read and join them. A process that was started with the variable TRACEPARENT goes on in the
trace of whoever started it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["VARIABLE", "SpanContext", "carrier", "entered", "exported", "here", "new_span", "parse"]

VARIABLE = "TRACEPARENT"
_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class SpanContext:
    """A place in a trace: 32 and 16 hexadecimal digits, neither of them all zeros."""

    trace_id: str
    span_id: str

    @property
    def traceparent(self) -> str:
        """As one text; the last part says that the trace is recorded."""
        return f"00-{self.trace_id}-{self.span_id}-01"


_current: ContextVar[SpanContext | None] = ContextVar("rung_span", default=None)


def parse(text: str) -> SpanContext | None:
    """The place that a `traceparent` names; None for anything else, as the standard asks: a new trace begins then."""
    match = _FORM.fullmatch(text)
    if match is None or not match[1].strip("0") or not match[2].strip("0"):
        return None
    return SpanContext(match[1], match[2])


def here(environment: Mapping[str, str] | None = None) -> SpanContext | None:
    """The span under way: this thread's, else the one that the process was started in, or that it exports."""
    values = os.environ if environment is None else environment
    return _current.get() or parse(values.get(VARIABLE, ""))


def new_span(parent: SpanContext | None) -> SpanContext:
    """A span below `parent`, or the first of a new trace."""
    return SpanContext(parent.trace_id if parent else secrets.token_hex(16), secrets.token_hex(8))


def carrier() -> dict[str, str]:
    """What the environment of another process needs to go on from here; empty outside of any span."""
    place = here()
    return {VARIABLE: place.traceparent} if place else {}


@contextlib.contextmanager
def entered(span: SpanContext) -> Iterator[None]:
    """Spans that begin in the block, in this thread, are below `span`."""
    before = _current.set(span)
    try:
        yield
    finally:
        _current.reset(before)


@contextlib.contextmanager
def exported(span: SpanContext) -> Iterator[None]:
    """Processes and threads that begin in the block are below `span`: they see it in the environment."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = span.traceparent
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
