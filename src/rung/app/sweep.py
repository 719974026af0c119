"""A sweep: one recipe, several values for some of its settings, and a run for every combination of them.

Every run is an ordinary one, under its own name in the runs folder, with its resolved recipe beside its outputs: it is
resumed, inspected and compared like any other. Asked for again, a sweep does what is left.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rung.app.choices import Choices
from rung.app.running import load_recipe
from rung.base.errors import RungError, SettingsError
from rung.base.settings import Field, Settings, validate
from rung.pipeline.ranks import num_ranks_of
from rung.pipeline.recipe import Recipe
from rung.records.manifest import FILE_NAME, open_manifest

__all__ = ["Sweep", "SweepSettings", "Variant", "figure", "load_sweep", "table"]


class SweepSettings(Settings):
    """What is varied, and what is looked at."""

    recipe: str = Field(description="the recipe's file, from here or from beside the sweep's file")
    over: dict[str, tuple[Any, ...]] = Field(min_length=1, description="setting, as for --set -> its values")
    show: tuple[str, ...] = Field((), description="figures of the table: STAGE.NAME, deeper ones with more points")


@dataclass(frozen=True)
class Variant:
    """One run: its name, the values it has, and its recipe, resolved."""

    name: str
    values: Mapping[str, Any]
    choices: Choices
    recipe: Recipe


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep file, in order."""

    settings: SweepSettings
    path: Path
    variants: tuple[Variant, ...]


def load_sweep(path: Path, choices: Choices) -> Sweep:
    """Read a sweep and resolve the recipe of every run, so that a wrong value is told before the first begins.

    Raises:
        SettingsError: unreadable, or a recipe or value that is wrong; naming the run.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"cannot read the sweep: {error}", place=str(path)) from error
    settings = validate(SweepSettings, said if isinstance(said, dict) else {}, path.name)
    if empty := [key for key, values in settings.over.items() if not values]:
        raise SettingsError("no values", place=f"{path.name}: over.{empty[0]}", hint="a list of at least one")
    near = path.parent / settings.recipe
    recipe = near if near.is_file() else Path(settings.recipe)
    base = load_recipe(recipe, choices)
    variants = []
    for number, values in enumerate(itertools.product(*settings.over.values()), 1):
        own = dict(zip(settings.over, values, strict=True))
        name = f"{base.run}-{number}"
        sets = (*choices.sets, *(f"{key}={json.dumps(value)}" for key, value in own.items()))
        chosen = replace(choices, sets=sets)
        try:
            variants.append(Variant(name, own, chosen, replace(load_recipe(recipe, chosen), run=name)))
        except SettingsError as error:
            raise SettingsError(f"run {name} ({_said(own)}): {error}", place=str(path)) from error
        if any(num_ranks_of(spec.stage) > 1 for spec in variants[-1].recipe.stages):
            raise SettingsError(
                f"run {name} trains on several ranks",
                place=str(path),
                hint="run such recipes one by one: rung run --set",
            )
    return Sweep(settings, path, tuple(variants))


def figure(runs: Path, run: str, name: str) -> Any:
    """A figure of a finished stage, None where there is none: the stage's, or what its gate looked at."""
    stage, _, rest = name.partition(".")
    folder = runs / run / stage
    if not (folder / FILE_NAME).is_file():
        return None
    manifest = open_manifest(folder).manifest
    for found in (manifest.figures, manifest.gate.get("figures", {})):
        value: Any = found
        for part in rest.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None


def table(sweep: Sweep, endings: Mapping[str, RungError | None], runs: Path) -> str:
    """What came of every run, as Markdown."""
    keys, shown = list(sweep.settings.over), list(sweep.settings.show)
    lines = [
        f"# {sweep.path.stem}",
        "",
        "| run | " + " | ".join([*keys, "outcome", *shown]) + " |",
        "|---" * (2 + len(keys) + len(shown)) + "|",
    ]
    for one in sweep.variants:
        ending = endings.get(one.name)
        outcome = "not run" if one.name not in endings else "done" if ending is None else type(ending).__name__
        values = [json.dumps(one.values[key]) for key in keys]
        figures = [_cell(figure(runs, one.name, name)) for name in shown]
        lines.append(f"| {one.name} | " + " | ".join([*values, outcome, *figures]) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _said(values: Mapping[str, Any]) -> str:
    pairs: Sequence[str] = [f"{key}={value}" for key, value in values.items()]
    return ", ".join(pairs)
