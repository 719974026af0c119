"""The end of a run: how its stages ended, the results table, and the report beside the outputs."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rung.app.choices import Choices
from rung.app.compare import results_table
from rung.app.progress import duration
from rung.app.reports.html import render
from rung.app.reports.story import tell
from rung.app.runs import REPORT_NAME, outputs_of
from rung.base.files import write_text
from rung.pipeline.runner import RunResult

__all__ = ["close_run"]

_DONE = ("done", "skipped", "forced")


def close_run(result: RunResult, choices: Choices, out: Console) -> None:
    """Show how every stage ended and what the model can do now; write the report unless nothing has changed."""
    outcomes = [stage.outcome for stage in result.stages]
    nothing_new = all(outcome == "skipped" for outcome in outcomes)
    if not choices.quiet:
        if nothing_new:
            out.print(Text(f"{result.run}: nothing to do, all {len(outcomes)} stages are finished and verified"))
        else:
            out.print(_stages_table(result))
    if not any(outcome in _DONE for outcome in outcomes):
        return
    page = result.folder / REPORT_NAME
    story = tell(result.run, outputs_of(result.folder))
    if not nothing_new or not page.is_file():
        write_text(page, render(story))
    results = story.results or story.gap
    if results is not None and not choices.quiet:
        out.print(results_table(results))
    if not choices.quiet:
        out.print(Text(f"report: {page}"), soft_wrap=True)


def _stages_table(result: RunResult) -> Table:
    table = Table(box=None, padding=(0, 2))
    for column in ("stage", "kind", "ended", "time", "tokens"):
        table.add_column(column, justify="right" if column in ("time", "tokens") else "left")
    for stage in result.stages:
        style = {"done": "green", "skipped": "dim", "not_started": "dim", "forced": "yellow"}.get(stage.outcome, "red")
        spent = duration(stage.spend.seconds) if stage.spend.seconds else ""
        tokens = f"{stage.spend.tokens:,.0f}" if stage.spend.tokens else ""
        ended = Text(stage.outcome.replace("_", " "), style=style)
        table.add_row(Text(stage.name), Text(stage.kind), ended, spent, tokens)
    return table
