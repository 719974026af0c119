"""`rung run`: run or resume a recipe."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rung.app.choices import Choices
from rung.app.running import run_recipe, with_rubric

__all__ = ["run"]


def run(path: Path, choices: Choices, out: Console, notes: Console, *, rubric: tuple[str, str] = ("", "")) -> None:
    """Run the recipe at `path`; its named ending is raised once what is finished has been shown.

    `rubric` are other words for good and bad of its A/B critics (empty: the recipe's own).
    """
    run_recipe(path, with_rubric(path, *rubric, choices), out, notes)
