"""`rung sweep`: run a recipe once for every combination of some values."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rung.app.choices import Choices
from rung.app.running import run_loaded
from rung.app.sweep import load_sweep, table
from rung.base.errors import BudgetSpent, Interrupted, RungError
from rung.base.files import write_text

__all__ = ["sweep"]


def sweep(path: Path, choices: Choices, out: Console, notes: Console) -> None:
    """Do what is left of the sweep at `path`; a run that ends badly does not stop the others. The table is shown, and
    written beside the runs.

    Raises:
        SettingsError: anything wrong with the sweep or one of its recipes, before the first run.
        RungError: the ending of the first run that did not finish, after all.
    """
    found = load_sweep(path, choices)
    endings: dict[str, RungError | None] = {}
    shown = choices.runs / f"{path.stem}.md"
    for one in found.variants:
        notes.print(f"[bold]{one.name}[/bold]: {', '.join(f'{key} = {value}' for key, value in one.values.items())}")
        try:
            run_loaded(one.recipe, one.choices, out, notes)
            endings[one.name] = None
        except (Interrupted, BudgetSpent):
            write_text(shown, table(found, endings, choices.runs))
            raise
        except RungError as error:
            endings[one.name] = error
            notes.print(f"{one.name} ended: {error}", highlight=False, markup=False)
        write_text(shown, table(found, endings, choices.runs))
    out.print(table(found, endings, choices.runs), highlight=False, markup=False)
    out.print(f"written to {shown}", highlight=False)
    if failed := next((error for error in endings.values() if error is not None), None):
        raise failed
