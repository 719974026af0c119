"""Charts as text: small pure functions from numbers to inline SVG, coloured by the page's own style classes.

Nothing here knows a run. Marks carry classes (`mark-0`, `whisker`, `grid`, `limit`), the page's style sheet gives them
colours for light, dark and print. Plots that stand in table rows stretch with their cell (strokes keep their width),
plots with axes have a fixed shape that is legible on a phone without scaling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Band", "Curve", "bar", "curves", "histogram", "meter", "scale", "ticks", "whisker"]

_WIDTH, _HEIGHT = 400, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 78, 12, 34


@dataclass(frozen=True, slots=True)
class Band:
    """A value with its interval; `low` and `high` are None when none was measured."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line: points (x, y), drawn in the colour of `mark` (0, 1, 2, ...)."""

    name: str
    points: tuple[tuple[float, float], ...]
    mark: int = 0


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers inside [low, high]; one number when the range is empty."""
    if not math.isfinite(low) or not math.isfinite(high) or high <= low:
        return [low if math.isfinite(low) else 0.0]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def scale(value: float, low: float, high: float, length: float) -> float:
    """Where `value` stands on a line of `length` that runs from `low` to `high`; kept on the line."""
    if high <= low:
        return length / 2
    return max(0.0, min(1.0, (value - low) / (high - low))) * length


def whisker(band: Band, low: float = 0.0, high: float = 1.0, mark: int = 0, limit: float | None = None) -> str:
    """A dot with its interval as a whisker, for a table cell; `limit` is drawn as a thin upright line."""
    x = scale(band.value, low, high, 100)
    parts = ['<line class="axis" x1="0" y1="12" x2="100" y2="12"/>']
    if limit is not None:
        at = scale(limit, low, high, 100)
        parts.append(f'<line class="limit" x1="{at:.2f}" y1="1" x2="{at:.2f}" y2="23"/>')
    if band.low is not None and band.high is not None:
        left, right = scale(band.low, low, high, 100), scale(band.high, low, high, 100)
        ends = "".join(
            f'<line class="whisker mark-{mark}" x1="{e:.2f}" y1="8" x2="{e:.2f}" y2="16"/>' for e in (left, right)
        )
        parts.append(f'<line class="whisker mark-{mark}" x1="{left:.2f}" y1="12" x2="{right:.2f}" y2="12"/>{ends}')
    # A zero-length stroke with round ends stays a circle however wide the cell is stretched.
    parts.append(f'<path class="dot mark-{mark}" d="M{x:.2f} 12h.001"/>')
    return _stretched("".join(parts), _spoken(band))


def meter(value: float, limit: float, top: float, passed: bool, lower_is_better: bool) -> str:
    """A bar from 0 to `value` against a limit; the side that fails is shaded."""
    x, at = scale(value, 0, top, 100), scale(limit, 0, top, 100)
    left, width = (at, 100 - at) if lower_is_better else (0.0, at)
    state = "pass" if passed else "fail"
    body = (
        f'<rect class="failing" x="{left:.2f}" y="4" width="{width:.2f}" height="16"/>'
        f'<line class="bar {state}" x1="0" y1="12" x2="{max(x, 0.01):.2f}" y2="12"/>'
        f'<line class="limit" x1="{at:.2f}" y1="2" x2="{at:.2f}" y2="22"/>'
    )
    return _stretched(body, f"{value:.4g} against a limit of {limit:.4g}")


def bar(value: float, top: float, mark: int = 0, second: float | None = None) -> str:
    """A bar from 0 to `value`; `second` (an estimate) is drawn as an upright line."""
    body = f'<line class="bar mark-{mark}" x1="0" y1="12" x2="{max(scale(value, 0, top, 100), 0.01):.2f}" y2="12"/>'
    if second is not None:
        at = scale(second, 0, top, 100)
        body += f'<line class="limit" x1="{at:.2f}" y1="2" x2="{at:.2f}" y2="22"/>'
    return _stretched(body, f"{value:.4g}")


def curves(lines: Sequence[Curve], x_label: str, y_label: str, y_from_zero: bool = False) -> str:
    """Lines over a shared pair of axes, each named at its end. Points that are not finite are left out."""
    kept = [Curve(c.name, tuple(p for p in c.points if all(map(math.isfinite, p))), c.mark) for c in lines]
    kept = [c for c in kept if c.points]
    if not kept:
        return ""
    xs = [x for c in kept for x, _ in c.points]
    ys = [y for c in kept for _, y in c.points]
    box = _Box(min(xs), max(xs), min(0.0, *ys) if y_from_zero else min(ys), max(ys))
    body = _frame(box, x_label, y_label) + "".join(_line(c, box) for c in kept)
    body += "".join(_end_labels(kept, box))
    return _fixed(body, f"{y_label} over {x_label}: {', '.join(c.name for c in kept)}")


def histogram(values: Sequence[float], x_label: str, limit: float | None = None, num_bins: int = 24) -> str:
    """Counts of `values` in equal bins; `limit` is an upright line with its number."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return ""
    low, high = min([*finite, *([limit] if limit is not None else [])]), max(finite)
    high = high if high > low else low + 1.0
    counts = [0] * num_bins
    for value in finite:
        counts[min(num_bins - 1, int((value - low) / (high - low) * num_bins))] += 1
    box = _Box(low, high, 0.0, float(max(counts)))
    step = (high - low) / num_bins
    body = _frame(box, x_label, "count", whole=True)
    for index, count in enumerate(counts):
        left, right = box.x(low + index * step), box.x(low + (index + 1) * step)
        top = box.y(count)
        body += f'<rect class="fill mark-0" x="{left:.1f}" y="{top:.1f}" width="{max(0.5, right - left - 1):.1f}" '
        body += f'height="{_HEIGHT - _BOTTOM - top:.1f}"/>'
    if limit is not None:
        at = box.x(limit)
        body += f'<line class="limit" x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{_HEIGHT - _BOTTOM}"/>'
        body += f'<text class="tick" x="{at:.1f}" y="{_TOP - 3}">limit {limit:.3g}</text>'
    return _fixed(body, f"distribution of {x_label}, {len(finite)} values")


@dataclass(frozen=True, slots=True)
class _Box:
    """The ranges of a plot with axes, mapped to its pixels."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        """Horizontal place of a value, in pixels."""
        return _LEFT + scale(value, self.left, self.right, _WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Vertical place of a value, in pixels."""
        return _HEIGHT - _BOTTOM - scale(value, self.bottom, self.top, _HEIGHT - _TOP - _BOTTOM)


def _frame(box: _Box, x_label: str, y_label: str, whole: bool = False) -> str:
    parts = []
    for value in [v for v in ticks(box.bottom, box.top) if not whole or v == int(v)]:
        y = box.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y + 4:.1f}">{value:g}</text>')
    for value in ticks(box.left, box.right):
        parts.append(f'<text class="tick mid" x="{box.x(value):.1f}" y="{_HEIGHT - _BOTTOM + 15}">{value:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="label mid" x="{middle:.0f}" y="{_HEIGHT - 4}">{escape(x_label)}</text>')
    turned = f'transform="translate(11 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)"'
    parts.append(f'<text class="label mid" {turned}>{escape(y_label)}</text>')
    return "".join(parts)


def _line(curve: Curve, box: _Box) -> str:
    if len(curve.points) == 1:
        x, y = curve.points[0]
        return f'<circle class="fill mark-{curve.mark}" cx="{box.x(x):.1f}" cy="{box.y(y):.1f}" r="3.5"/>'
    path = "L".join(f"{box.x(x):.1f} {box.y(y):.1f}" for x, y in curve.points)
    return f'<path class="line mark-{curve.mark}" d="M{path}"/>'


def _end_labels(lines: Sequence[Curve], box: _Box) -> list[str]:
    """Names at the ends of lines, pushed apart so that none covers another."""
    placed, last = [], -math.inf
    for curve in sorted(lines, key=lambda c: box.y(c.points[-1][1])):
        x, y = curve.points[-1]
        height = max(box.y(y) + 4, last + 26)
        last = height
        placed.append(
            f'<text class="name mark-{curve.mark}" x="{box.x(x) + 6:.1f}" y="{height:.1f}">{escape(curve.name)}'
            f'<tspan class="tick" x="{box.x(x) + 6:.1f}" dy="12">{y:.3g}</tspan></text>'
        )
    return placed


def _spoken(band: Band) -> str:
    interval = "" if band.low is None or band.high is None else f" (interval {band.low:.3f} to {band.high:.3f})"
    return f"{band.value:.3f}{interval}"


def _stretched(body: str, spoken: str) -> str:
    return (
        f'<svg class="cell" viewBox="0 0 100 24" preserveAspectRatio="none" role="img" aria-label="{escape(spoken)}">'
        f"{body}</svg>"
    )


def _fixed(body: str, spoken: str) -> str:
    return f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(spoken)}">{body}</svg>'
