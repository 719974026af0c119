"""`rung audit`: catch the silent bugs before a run is paid for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rung.app.choices import Choices
from rung.base.errors import GateFailed
from rung.base.files import write_json
from rung.base.fingerprint import plain
from rung.pipeline import audit as auditing
from rung.pipeline.recipe import load

__all__ = ["audit"]

_STYLES = {"passed": "green", "failed": "bold red", "not applicable": "dim"}


def audit(
    path: Path,
    choices: Choices,
    out: Console,
    notes: Console,
    *,
    only: Sequence[str] = (),
    json_file: Path | None = None,
) -> None:
    """Run the checks on the recipe's own model and data, print the table, and end with GateFailed when one fails.

    Args:
        path: the recipe.
        choices: of the command line.
        out: where the table goes.
        notes: where progress goes.
        only: names of checks, none for all.
        json_file: also write the findings there.
    """
    recipe = load(path, profile=choices.profile, sets=choices.sets)
    checks = [name for name, _ in auditing.planned(only)]
    with notes.status(f"loading {recipe.model}") as status:
        # Brings torch, so it is opened once the recipe and the checks are known to be good.
        opening = importlib.import_module("rung.pipeline.checks._recipe")
        subject = opening.open_subject(recipe, choices.runs)
        done: list[str] = []

        def tell(finding: auditing.Finding) -> None:
            """Show a finding as soon as it is made."""
            done.append(finding.check)
            left = [name for name in checks if name not in done]
            status.update(f"{len(done)} of {len(checks)} checks done" + (f", now {left[0]}" if left else ""))

        findings = auditing.audit(subject, only, tell)
    if json_file is not None:
        write_json(json_file, {"run": recipe.run, "model": recipe.model, "data": subject.origin,
                               "findings": plain(findings)})  # fmt: skip
    out.print(Text(f"audit of {recipe.run}: {recipe.model}, {subject.origin}", style="bold"))
    out.print(_table(findings))
    if failed := [finding.check for finding in findings if finding.result == "failed"]:
        raise GateFailed(
            f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}",
            place=recipe.run,
            hint=f"look at one alone: rung audit {path} --only {failed[0]}",
        )


def _table(findings: Sequence[auditing.Finding]) -> Table:
    """What a check guards against stands above its evidence, so that the table fits any terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("check", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("guards against; evidence", overflow="fold")
    table.add_column("s", justify="right", no_wrap=True)
    for finding in findings:
        table.add_row(
            Text(finding.check),
            Text(finding.result, style=_STYLES[finding.result]),
            Text.assemble((finding.guards, "dim"), "\n", finding.evidence),
            Text(f"{finding.seconds:.1f}"),
        )
    return table
