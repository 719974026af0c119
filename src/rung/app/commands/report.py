"""`rung report`: one HTML page about a run."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rung.app.reports.html import render
from rung.app.reports.story import tell
from rung.app.runs import REPORT_NAME, find_run, outputs_of
from rung.base.files import write_text

__all__ = ["report"]


def report(runs: Path, run: str, output: Path | None, out: Console) -> None:
    """Write the page of `run` to `output` (beside the run when None) and print where it is."""
    folder = find_run(runs, run)
    target = output or folder / REPORT_NAME
    write_text(target, render(tell(folder.name, outputs_of(folder))))
    out.print(str(target), soft_wrap=True, highlight=False)
