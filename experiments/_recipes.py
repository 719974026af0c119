"""Recipes that experiments put together, run like any other; their outputs are kept and taken up where they stand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from rung.app.models_keeper import ModelsKeeper
from rung.base.files import write_text
from rung.pipeline import recipe as recipes
from rung.pipeline.recipe import Recipe
from rung.pipeline.runner import Options
from rung.pipeline.runner import run as run_recipe

__all__ = ["RUNS", "run_values"]

RUNS = Path("runs/experiments")


def run_values(
    values: Mapping[str, Any], runs: Path = RUNS, models: ModelsKeeper | None = None, force: Collection[str] = ()
) -> tuple[Path, Recipe]:
    """The folder of the run that `values` are the recipe of, and the recipe as it was resolved.

    Args:
        values: `run`, `stages` and whatever else a recipe says.
        runs: where runs lie; the recipe is written there too.
        models: loads models; None loads them as a run from the command line does.
        force: stages whose gate is passed by: a result is looked at whatever it says, it is no release.

    Raises:
        SystemExit: it ended otherwise than by finishing.
    """
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / f"{values['run']}.yaml"
    write_text(path, yaml.safe_dump(dict(values)))
    recipe = recipes.load(path)
    there = frozenset({*force} & {spec.name for spec in recipe.stages})
    result = run_recipe(recipe, runs, models or ModelsKeeper(), Options(allow_dirty=True, force=there))
    if result.exit_code:
        raise SystemExit(f"{path}: {result.error}")
    return runs / path.stem, recipe
