"""A run's trace as a picture: one row for each process, stages and shards as bars on a common line of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rung.app.progress import duration
from rung.app.reports.svg import scale, ticks
from rung.pipeline.spans import Span

__all__ = ["Row", "last_trace", "rows", "timeline"]

_WIDTH, _LEFT, _RIGHT, _ROW, _BOTTOM = 640, 120, 34, 24, 30
_MOST_ROWS, _MOST_LEVELS = 60, 6
_ROOT = "run"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the picture: its name, and the pieces of work on it."""

    name: str
    depth: int
    spans: tuple[Span, ...]


def last_trace(spans: Sequence[Span]) -> list[Span]:
    """The spans of the last run that did more than find everything finished; of the last one otherwise."""
    traces: dict[str, list[Span]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    busy = [found for found in traces.values() if any(span.name != _ROOT for span in found)]
    return (busy or list(traces.values()) or [[]])[-1]


def rows(spans: Sequence[Span]) -> list[Row]:
    """Lines in the order of time: a stage, then one line for each process that made its shards."""
    known = {span.span_id: span for span in spans}
    grouped: dict[tuple[str, str], list[Span]] = {}
    for span in sorted(known.values(), key=lambda found: (_depth(found, known), found.start)):
        grouped.setdefault((span.parent_id, _title(span)), []).append(span)
    below: dict[str, list[tuple[str, list[Span]]]] = {}
    for (parent, title), found in grouped.items():
        below.setdefault(parent if parent in known else "", []).append((title, found))
    return _ordered(below, "", 0)


def timeline(spans: Sequence[Span]) -> str:
    """The picture as inline SVG; empty when there is nothing to draw."""
    found = rows(spans)[:_MOST_ROWS]
    if not found:
        return ""
    start = min(span.start for span in spans)
    length = max(span.start + span.seconds for span in spans) - start or 1e-9
    height = len(found) * _ROW + _BOTTOM
    body = _axis(length, height) + "".join(_line(row, index, start, length) for index, row in enumerate(found))
    spoken = f"{len(spans)} pieces of work in {duration(length)}"
    return f'<svg class="trace" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(spoken)}">{body}</svg>'


def _ordered(below: Mapping[str, list[tuple[str, list[Span]]]], parent: str, depth: int) -> list[Row]:
    found: list[Row] = []
    if depth > _MOST_LEVELS:
        return found
    for title, spans in sorted(below.get(parent, ()), key=lambda pair: pair[1][0].start):
        found.append(Row(title, depth, tuple(spans)))
        for span in spans:
            found += _ordered(below, span.span_id, depth + 1)
    return found


def _depth(span: Span, known: Mapping[str, Span]) -> int:
    depth, seen = 0, {span.span_id}
    while span.parent_id in known and span.parent_id not in seen:
        seen.add(span.parent_id)
        span, depth = known[span.parent_id], depth + 1
    return depth


def _title(span: Span) -> str:
    if span.name == "stage":
        return str(span.attributes.get("stage", span.name))
    if "worker" in span.attributes:
        return f"worker {span.attributes['worker']}"
    return "shards" if span.name == "shard" else span.name


def _axis(length: float, height: int) -> str:
    parts = []
    for value in ticks(0.0, length, 5):
        x = _LEFT + scale(value, 0.0, length, _WIDTH - _LEFT - _RIGHT)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - _BOTTOM + 4}"/>')
        label = f"{value:g} s" if length < 120 else duration(value)
        parts.append(f'<text class="tick mid" x="{x:.1f}" y="{height - 12}">{escape(label)}</text>')
    return "".join(parts)


def _line(row: Row, index: int, start: float, length: float) -> str:
    y = index * _ROW
    parts = [f'<text class="label" x="{4 + 10 * row.depth}" y="{y + 16}">{escape(row.name[:18])}</text>']
    for span in row.spans:
        left = _LEFT + scale(span.start - start, 0.0, length, _WIDTH - _LEFT - _RIGHT)
        width = max(1.0, scale(span.seconds, 0.0, length, _WIDTH - _LEFT - _RIGHT) - 0.5)
        state = "failed" if span.failed else f"mark-{min(row.depth, 3)}"
        number = f" {span.attributes['shard']}" if "shard" in span.attributes else ""
        told = f"{row.name}{number}: {duration(span.seconds)}{', failed' if span.failed else ''}"
        parts.append(
            f'<rect class="fill {state}" x="{left:.1f}" y="{y + 5}" width="{width:.1f}" height="{_ROW - 10}">'
            f"<title>{escape(told)}</title></rect>"
        )
    return "".join(parts)
