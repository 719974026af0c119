"""`rung run`: run or resume a recipe."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rung.app.choices import Choices
from rung.app.running import run_recipe

__all__ = ["run"]


def run(path: Path, choices: Choices, out: Console, notes: Console) -> None:
    """Run the recipe at `path`; its named ending is raised once what is finished has been shown."""
    run_recipe(path, choices, out, notes)
