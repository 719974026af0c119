"""The command line's commands that look at what runs made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rung.app.options import Runs
from rung.app.shell import command, merged, out

__all__ = ["commands"]

commands = typer.Typer(rich_markup_mode="rich")


@commands.command("inspect")
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
    command("inspect")(
        merged(context.obj, runs).runs,
        target,
        (record, limit),
        out(),
        tokenizer,
        drops=drops,
        flags=flags,
        masks=masks,
        records=show_records,
        cleaning=cleaning,
    )


@commands.command("compare")
def compare_command(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="A [B...]",
            help="RUN, RUN/STAGE, or either with :CONDITION behind it. One that was answered under several conditions "
            "is compared with itself.",
        ),
    ],
    *,
    runs: Runs = None,
) -> None:
    """Compare runs or stages: paired statistics where they answered the same items, and what moved between them."""
    command("compare")(merged(context.obj, runs).runs, targets, out())


@commands.command("status")
def status_command(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run that has begun, or its folder.")],
    *,
    runs: Runs = None,
) -> None:
    """Show where a run stands, from another terminal: what works now, how far, memory and processor, warnings."""
    command("status")(merged(context.obj, runs).runs, run, out())


@commands.command("report")
def report_command(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or its folder.")],
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to.  [default: RUN/report.html]")] = None,
    runs: Runs = None,
) -> None:
    """Write one self-contained HTML page about a run; it opens offline."""
    command("report")(merged(context.obj, runs).runs, run, output, out())


@commands.command("best-of-n")
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
    command("best_of_n")(merged(context.obj, runs).runs, pilot, limits, out())
