"""`rung plan`: what a run would do."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rung.app.choices import Choices
from rung.app.running import plan_recipe, plan_view

__all__ = ["plan"]


def plan(path: Path, choices: Choices, out: Console, show_settings: bool) -> None:
    """Print the plan of the recipe at `path`."""
    out.print(plan_view(plan_recipe(path, choices), show_settings))
