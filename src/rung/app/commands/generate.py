"""`rung generate`: the bootstrap recipe with another count, and nothing else."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rung.app.choices import Choices
from rung.app.running import counted, plan_recipe, plan_view, run_recipe, with_rubric

__all__ = ["generate"]


def generate(
    path: Path, count: int, choices: Choices, out: Console, notes: Console, *, rubric: tuple[str, str], dry_run: bool
) -> None:
    """Run the recipe at `path` so that it makes `count` records; with `dry_run` only show its plan."""
    chosen = with_rubric(path, *rubric, counted(path, count, choices))
    if dry_run:
        out.print(plan_view(plan_recipe(path, chosen), show_settings=False))
    else:
        run_recipe(path, chosen, out, notes)
