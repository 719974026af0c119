"""`rung sft`: train on a file of records with the default settings, through the one runner there is."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console

from rung.app.choices import Choices
from rung.app.running import run_loaded
from rung.pipeline.recipe import load_values

__all__ = ["sft"]


def sft(data: Path, model: str, epochs: int, choices: Choices, consoles: tuple[Console, Console], *, run: str) -> None:
    """Read the records of `data`, check them, train an adapter on them, and leave a run like any other's.

    Args:
        data: JSON lines, as `rung scale --output` writes them.
        model: source of the base model.
        epochs: times that every record is shown; 0: the stage's own default.
        choices: of the command line.
        consoles: where results go, and where everything else goes.
        run: the run's name; empty: sft- and the file's.

    Raises:
        RungError: the named ending of the run; the same command goes on.
    """
    name = run or "sft-" + re.sub(r"[^A-Za-z0-9._-]", "-", data.stem)
    training = {"training": {"epochs": epochs}} if epochs else {}
    values = {
        "run": name,
        "model": model,
        "stages": [{"read_records": {"name": "data", "file": str(data)}}, {"sft": {"data": "data", **training}}],
    }
    run_loaded(load_values(values, "rung sft", sets=choices.sets), choices, *consoles)
