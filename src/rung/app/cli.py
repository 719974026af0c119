"""The command line. Every command is a few lines: read options, call the module that does it, print.

Named endings become a message with place, cause and hint on standard error and their own exit code (docs/ERRORS.md);
anything else is a defect: a short message, a file with the trace, exit code 1. Nothing here imports torch: commands
that run models load their modules by name when they start.
"""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.exceptions import TyperException

import rung
from rung.app.choices import Choices
from rung.app.logging import LogSettings, redact
from rung.base.errors import RungError, SettingsError
from rung.base.files import write_text
from rung.base.lookup import lookup

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


class Level(StrEnum):
    """How much is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


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
AllowDirty = Annotated[
    bool, typer.Option("--allow-dirty", help="Run with changed or unknown rung sources; every manifest says so.")
]


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
    context.obj = _merged(Choices(), runs, quiet, log_level, log_file)


@app.command("run")
def run_command(
    context: typer.Context,
    recipe: RecipeFile,
    *,
    profile: Profile = "",
    sets: Sets = None,
    rebuild: Rebuild = None,
    force: Force = None,
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
        _merged(context.obj, runs, quiet, log_level, log_file),
        profile=profile,
        sets=tuple(sets or ()),
        rebuild=tuple(rebuild or ()),
        force=tuple(force or ()),
        allow_dirty=allow_dirty,
    )
    _command("run")(recipe, choices, _out(), _notes(), rubric=(rubric_good, rubric_bad))


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
        _merged(context.obj, runs),
        profile=profile,
        sets=tuple(sets or ()),
        rebuild=tuple(rebuild or ()),
        force=tuple(force or ()),
    )
    _command("plan")(recipe, choices, _out(), show_settings)


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
    choices = replace(_merged(context.obj, runs), profile=profile, sets=tuple(sets or ()))
    _command("audit")(recipe, choices, _out(), _notes(), only=tuple(only or ()), json_file=json_file)


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
        _merged(context.obj, runs, quiet, log_level),
        profile=profile,
        sets=tuple(sets or ()),
        allow_dirty=allow_dirty,
    )
    _command("generate")(recipe, count, choices, _out(), _notes(), rubric=(rubric_good, rubric_bad), dry_run=dry_run)


@app.command("inspect")
def inspect_command(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="RUN/STAGE", help="A stage's output, or its folder.")],
    *,
    drops: Annotated[
        bool, typer.Option("--drops", help="What was left out, by reason, with the matched span.")
    ] = False,
    flags: Annotated[
        bool, typer.Option("--flags", help="What quality control flagged, and where in the text.")
    ] = False,
    masks: Annotated[
        bool, typer.Option("--masks", help="Training examples token by token, trained tokens green.")
    ] = False,
    cleaning: Annotated[
        int, typer.Option("--cleaning", min=0, metavar="N", help="N random generations before and after cleaning.")
    ] = 0,
    show_records: Annotated[bool, typer.Option("--records", help="The first records, whole.")] = False,
    record: Annotated[str, typer.Option("--record", metavar="ID", help="Only this record.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Examples of each kind.")] = 5,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="A tokenizer.json for --masks, instead of the model's own.")
    ] = None,
    runs: Runs = None,
) -> None:
    """Look into an output: manifest, records, decoded loss masks, flags, drops with their reasons."""
    _command("inspect")(
        _merged(context.obj, runs).runs,
        target,
        (record, limit),
        _out(),
        tokenizer,
        drops=drops,
        flags=flags,
        masks=masks,
        records=show_records,
        cleaning=cleaning,
    )


@app.command("compare")
def compare_command(
    context: typer.Context,
    targets: Annotated[
        list[str], typer.Argument(metavar="A B [C...]", help="RUN, RUN/STAGE, or either with :CONDITION behind it.")
    ],
    *,
    runs: Runs = None,
) -> None:
    """Compare runs or stages: paired statistics where they answered the same items, and what moved between them."""
    if len(targets) < 2:
        raise SettingsError("one thing cannot be compared", hint="rung compare A B")
    _command("compare")(_merged(context.obj, runs).runs, targets, _out())


@app.command("report")
def report_command(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or its folder.")],
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to.  [default: RUN/report.html]")] = None,
    runs: Runs = None,
) -> None:
    """Write one self-contained HTML page about a run; it opens offline."""
    _command("report")(_merged(context.obj, runs).runs, run, output, _out())


@app.command("chat")
def chat_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="package:NAME, hf:ORG/NAME, gguf:PATH or RUN/STAGE.")],
    *,
    ask: Annotated[list[str] | None, typer.Option("--ask", help="Ask this and leave. Repeatable.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the bare text, without the frame.")] = False,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=5.0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="At most this many tokens an answer.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Decides every draw when the temperature is above 0.")] = 0,
    runs: Runs = None,
) -> None:
    """Talk to a model in the frame it was trained in."""
    if not ask and not sys.stdin.isatty():
        raise SettingsError(
            "chat needs a terminal to talk in", place="stdin", hint='rung chat MODEL --ask "a question"'
        )
    manner = {"raw": raw, "temperature": temperature, "max_new_tokens": max_tokens, "seed": seed}
    _command("chat")(_merged(context.obj, runs).runs, model, tuple(ask or ()), _out(), _notes(), **manner)


@app.command("rubrics")
def rubrics_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="package:NAME, hf:ORG/NAME, gguf:PATH or RUN/STAGE.")],
    *,
    first: Annotated[str, typer.Option("--first", help="A preset, or a YAML file with good and bad.")] = "default",
    second: Annotated[str, typer.Option("--second", help="The other one.")] = "strict",
    labelled: Annotated[
        Path | None,
        typer.Option("--labelled", help="JSON lines: instruction, response, type, is_good.  [default: shipped pairs]"),
    ] = None,
    runs: Runs = None,
) -> None:
    """Test two rubric wordings of the A/B critic on one labelled set: acceptance, agreement, precision, paired p."""
    _command("rubrics")(_merged(context.obj, runs).runs, model, (first, second), labelled, (_out(), _notes()))


@app.command("best-of-n")
def best_of_n_command(
    context: typer.Context,
    pilot: Annotated[str, typer.Argument(metavar="RUN/STAGE", help="A finished pilot, such as quickstart/pilot.")],
    *,
    max_cost: Annotated[float, typer.Option("--max-cost", help="Tokens per kept record against one response.")] = 1.5,
    min_gain: Annotated[
        float, typer.Option("--min-gain", help="More instructions with a kept answer, low end of 95 %.")
    ] = 0.05,
    runs: Runs = None,
) -> None:
    """Decide by the written rule, from a pilot's figures, whether a large run draws several responses each."""
    limits = {"max_cost_ratio": max_cost, "min_yield_gain": min_gain}
    _command("best_of_n")(_merged(context.obj, runs).runs, pilot, limits, _out())


@app.command("new")
def new_command(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("recipe.yaml"),
) -> None:
    """Write a commented starter recipe."""
    if path.exists():
        raise SettingsError("there is a file of that name already", place=str(path), hint="name another")
    write_text(path, (files("rung.app") / "starter.yaml").read_text(encoding="utf-8"))
    _out().print(f"{path} is written; look at what it would do: rung plan {path}", soft_wrap=True, highlight=False)


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
        _tell(f"{type(error).__name__}: {redact(str(error))}", "a defect in rung", f"please report it with {where}")
        return 1


def main() -> None:
    """The console script."""
    sys.exit(execute(sys.argv[1:]))


def _command(name: str) -> Any:
    """The function behind a command, imported now and not before."""
    return lookup("app.commands", name)


def _merged(
    choices: Choices, runs: Path | None, quiet: bool = False, level: Level | None = None, log_file: Path | None = None
) -> Choices:
    """Options may stand before or behind the command; those behind win."""
    values: dict[str, Any] = {}
    if level is not None:
        values["level"] = level.value
    if log_file is not None:
        values["file"] = log_file
    log = LogSettings.model_validate({**choices.log.model_dump(), **values})
    return replace(choices, runs=runs or choices.runs, quiet=quiet or choices.quiet, log=log)


def _out() -> Console:
    return Console()


def _notes() -> Console:
    return Console(stderr=True)


def _tell(message: str, place: str, hint: str) -> None:
    text = Text.assemble(("error: ", "bold red"), (f"{place}: " if place else ""), message)
    notes = _notes()
    notes.print(text, soft_wrap=True, highlight=False)
    if hint:
        notes.print(Text(f"hint: {hint}"), soft_wrap=True, highlight=False)


def _keep_trace(error: BaseException) -> Path:
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    descriptor, name = tempfile.mkstemp(prefix=f"rung-trace-{stamp}-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(redact("".join(traceback.format_exception(error))))
    return Path(name)
