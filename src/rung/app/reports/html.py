"""`rung report`: one HTML page that works offline, without scripts, in light, dark and print.

The page's own policy forbids every request and every script, so text that a model wrote cannot act even if it were
ever let through; it is escaped as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from rung.app.progress import duration
from rung.app.reports import svg
from rung.app.reports.results import REFERENCE, Condition, Pair, Results
from rung.app.reports.shapes import Held
from rung.app.reports.story import Story
from rung.app.reports.timeline import timeline

__all__ = ["headline", "percent", "render"]


def render(story: Story) -> str:
    """The whole page as one HTML text."""
    folder = files("rung.app.reports")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(percent=percent, p_value=p_value, short=lambda text: text[:12], seconds=duration)
    environment.globals.update(
        condition_plot=_condition_plot,
        rate_plot=_rate_plot,
        auc_plot=_auc_plot,
        held_plot=_held_plot,
        cost_plot=_cost_plot,
        drop_plot=_drop_plot,
        chart=_chart,
        margins=_margins,
        trade=_trade,
        trace_plot=_trace_plot,
    )
    template = environment.get_template("page.html.j2")
    return template.render(
        story=story,
        headline=headline(story),
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        types=sorted({sample.type for sample in story.samples}),
        main_pair=_main_pair(story.results),
        contents=_contents(story),
        known={manifest.fingerprint: manifest.name for manifest in story.outputs},
    )


def percent(value: float, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return f"{100 * value:.{digits}f} %"


def p_value(value: float | None) -> str:
    """A p-value with two significant digits; n/a when there is none."""
    if value is None:
        return "n/a"
    return "< 1e-300" if value == 0 else f"{value:.2g}"


def headline(story: Story) -> str:
    """The run in one sentence: what the tuned model does, and what the base did."""
    results = story.results
    if results is None or len(results.conditions) < 2:
        if story.gap is None:
            return f"{len(story.outputs)} finished stages, nothing evaluated yet"
        asked = [c for c in story.gap.conditions if c.name != REFERENCE] or list(story.gap.conditions)
        best = max(asked, key=lambda c: c.passed.rate)
        return f"Before training, the base model passes {percent(best.passed.rate)} of {best.passed.n} held-out items"
    *before, last = results.conditions
    said = ", ".join(f"{percent(c.passed.rate, 0)} {_asked(c)}" for c in before)
    return f"{percent(last.passed.rate, 0)} of {last.passed.n} held-out items right after training; before, {said}"


def _asked(condition: Condition) -> str:
    words = {"raw": "for the bare base model", "framed": "for the base model in the frame"}
    return words.get(condition.name, f"for “{condition.name}”")


def _main_pair(results: Results | None) -> Pair | None:
    """The test that matters: the last condition against the strongest of the others."""
    if results is None or not results.pairs:
        return None
    last = results.conditions[-1].name
    rates = {c.name: c.passed.rate for c in results.conditions}
    against = [p for p in results.pairs if p.second == last]
    return max(against, key=lambda p: rates[p.first]) if against else None


def _contents(story: Story) -> list[tuple[str, str]]:
    there = {
        "gap": story.gap,
        "results": story.results,
        "samples": story.samples,
        "critics": story.critics,
        "data": story.data,
        "training": story.trainings,
        "cost": story.costs,
        "trace": story.trace,
        "model": story.guards,
        "provenance": story.outputs,
    }
    names = {
        "gap": "The gap",
        "results": "Result",
        "samples": "Samples",
        "critics": "Critics",
        "data": "Data",
        "training": "Training",
        "cost": "Cost",
        "trace": "Trace",
        "model": "Model",
        "provenance": "Provenance",
    }
    return [(key, names[key]) for key, value in there.items() if value]


def _condition_plot(condition: Condition) -> Markup:
    interval = condition.passed.interval
    return Markup(svg.whisker(svg.Band(condition.passed.rate, interval.low, interval.high), mark=condition.mark))


def _rate_plot(passed: Any, mark: int) -> Markup:
    return Markup(svg.whisker(svg.Band(passed.rate, passed.interval.low, passed.interval.high), mark=min(mark, 3)))


def _auc_plot(band: svg.Band) -> Markup:
    return Markup(svg.whisker(band, 0.0, 1.0, limit=0.5))


def _trade(lines: Sequence[svg.Curve]) -> Markup:
    return Markup(svg.curves(lines, "margin asked for, nats", "share", y_from_zero=True))


def _held_plot(row: Held) -> Markup:
    top = max(row.value, row.limit) * 1.25 or 1.0
    return Markup(svg.meter(row.value, row.limit, top, row.passed, row.lower_is_better))


def _cost_plot(seconds: float, expected: float | None, story: Story) -> Markup:
    top = max([1e-9, *(c.seconds for c in story.costs), *(c.expected_seconds or 0.0 for c in story.costs)])
    return Markup(svg.bar(seconds, top, second=expected))


def _trace_plot(story: Story) -> Markup:
    return Markup(timeline(story.trace))


def _drop_plot(count: int, drops: Sequence[tuple[str, int]]) -> Markup:
    return Markup(svg.bar(count, max(1, *(c for _, c in drops)), mark=2))


def _chart(quantity: str, lines: Sequence[svg.Curve]) -> Markup:
    return Markup(svg.curves(lines, "step", quantity.replace("_", " ")))


def _margins(values: Sequence[float], limit: float | None) -> Markup:
    return Markup(svg.histogram(values, "deciding margin, nats", limit))
