"""Options that several commands take, each said once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AllowDirty",
    "Force",
    "Level",
    "LogFile",
    "LogLevel",
    "Precision",
    "Profile",
    "Quiet",
    "Rebuild",
    "RecipeFile",
    "RubricBad",
    "RubricGood",
    "Runs",
    "Sets",
    "Workers",
]


class Level(StrEnum):
    """How much is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class Precision(StrEnum):
    """What products are computed in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


Runs = Annotated[Path | None, typer.Option("--runs", help="Folder that holds the runs.  [default: runs]")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
LogLevel = Annotated[Level | None, typer.Option("--log-level", help="The least that is logged.  [default: info]")]
LogFile = Annotated[Path | None, typer.Option("--log-file", help="Also add log lines, as JSON, to this file.")]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/quickstart.yaml.")]
Profile = Annotated[str, typer.Option("--profile", help="A profile of the recipe, such as dev, ci or gpu.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value: STAGE.KEY=VALUE. Repeatable."),
]
Rebuild = Annotated[
    list[str] | None, typer.Option("--rebuild", metavar="STAGE", help="Make a finished stage again. Repeatable.")
]
Force = Annotated[
    list[str] | None,
    typer.Option("--force", metavar="STAGE", help="Go past this stage's failed gate; every later manifest says so."),
]
RubricGood = Annotated[
    str, typer.Option("--rubric-good", metavar="TEXT", help="What label A of the A/B critic stands for.")
]
RubricBad = Annotated[
    str, typer.Option("--rubric-bad", metavar="TEXT", help="What label B of the A/B critic stands for.")
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Processes that make shards at once.  [default: the recipe's]")
]
AllowDirty = Annotated[
    bool, typer.Option("--allow-dirty", help="Run with changed or unknown rung sources; every manifest says so.")
]
