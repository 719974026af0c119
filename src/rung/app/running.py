"""What `rung run`, `rung plan` and `rung generate` do with a recipe.

Statistics and the report are loaded by name once a run has ended: a typo in a recipe must not wait for them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rung.app.choices import Choices
from rung.app.late_models import LateModels
from rung.app.logging import LogSink
from rung.app.progress import ProgressSink, duration
from rung.base.errors import SettingsError
from rung.base.events import Sink
from rung.base.lookup import lookup
from rung.engine.opening import open_completer
from rung.models.cache import Cache
from rung.models.found import find
from rung.pipeline.plan import Plan, PlannedStage, plan
from rung.pipeline.ranks import Together, demand_ranks, num_ranks_of
from rung.pipeline.rates import Rates
from rung.pipeline.recipe import Recipe, load
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.sharding import parse_shards

__all__ = [
    "counted",
    "identify_model",
    "load_recipe",
    "plan_recipe",
    "plan_view",
    "run_loaded",
    "run_recipe",
    "with_rubric",
]


def run_recipe(path: Path, choices: Choices, out: Console, notes: Console) -> RunResult:
    """Run or resume a recipe, show what it does, and leave a report beside the outputs.

    Args:
        path: the recipe.
        choices: of the command line.
        out: where the results go.
        notes: where progress and log lines go.

    Raises:
        RungError: the named ending of the run, after everything that is finished has been shown.
    """
    return run_loaded(load_recipe(path, choices), choices, out, notes)


def run_loaded(recipe: Recipe, choices: Choices, out: Console, notes: Console) -> RunResult:
    """`run_recipe` for a recipe that is resolved already.

    One that trains on several ranks is run by as many processes: those that `torchrun` started, of which the first
    does what is done here and the others follow it, or ones that are started now.

    Raises:
        RungError: the named ending of the run, after everything that is finished has been shown.
        Exit: the ranks have done it all, or this is one that has followed.
    """
    if not _in_job():
        wanted = max(num_ranks_of(spec.stage) for spec in recipe.stages)
        if wanted > 1:
            raise typer.Exit(lookup("app", "launch")(wanted, sys.argv[1:]))
        return _run_here(recipe, choices, (out, notes), None)
    ranks = lookup("app", "ranks")()
    if ranks.rank:
        ranks.follow()
        raise typer.Exit
    try:
        demand_ranks(recipe, ranks.num_ranks)
        return _run_here(recipe, choices, (out, notes), ranks)
    finally:
        ranks.dismiss()


def _run_here(
    recipe: Recipe, choices: Choices, consoles: tuple[Console, Console], together: Together | None
) -> RunResult:
    out, notes = consoles
    folder = choices.runs / recipe.run
    models = LateModels()
    sinks = _sinks(folder, choices, notes)
    try:
        options = replace(_options(choices, models, tuple(sinks)), together=together)
        result = run(recipe, choices.runs, models, options)
    finally:
        for sink in sinks:
            sink.close()
    lookup("app", "closing")(result, choices, out)
    if result.error is not None:
        raise result.error
    return result


def _in_job() -> bool:
    """Whether `torchrun` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def plan_recipe(path: Path, choices: Choices) -> Plan:
    """The plan of a recipe; nothing is written and no model is loaded."""
    recipe = load_recipe(path, choices)
    models = LateModels()
    return plan(recipe, choices.runs, _options(choices, models, ()))


def counted(path: Path, count: int, choices: Choices) -> Choices:
    """The choices under which `run` of the recipe makes `count` records: nothing but an override of its one `count`.

    Raises:
        SettingsError: the recipe has no stage, or more than one, that takes a count.
    """
    recipe = load_recipe(path, choices)
    stages = [spec.name for spec in recipe.stages if "count" in spec.settings]
    if len(stages) != 1:
        raise SettingsError(
            f"{len(stages)} stages take a count" + (f": {', '.join(stages)}" if stages else ""),
            place=path.name,
            hint=f"say which: rung run {path} --set {stages[0] if stages else 'STAGE'}.count={count}",
        )
    return replace(choices, sets=(*choices.sets, f"{stages[0]}.count={count}"))


def with_rubric(path: Path, good: str, bad: str, choices: Choices) -> Choices:
    """The choices under which the recipe's A/B critics judge by these words (spec item 47); empty ones change nothing.

    The words are an override like any other: plan shows them, and every manifest that the critic touches holds them.

    Raises:
        SettingsError: no stage of the recipe calibrates an A/B critic.
    """
    words = {"rubric_good": good, "rubric_bad": bad}
    words = {name: text for name, text in words.items() if text}
    if not words:
        return choices
    sets = []
    for spec in load_recipe(path, choices).stages:
        critics = [_spec(critic) for critic in spec.settings.get("critics", ())]
        if any(critic["kind"] == "choice" for critic in critics):
            changed = [{**critic, **words} if critic["kind"] == "choice" else critic for critic in critics]
            sets.append(f"{spec.name}.critics={json.dumps(changed)}")
    if not sets:
        raise SettingsError(
            "no stage of this recipe calibrates the A/B critic",
            place="--rubric-good, --rubric-bad",
            hint="add it: - calibrate: {critics: [choice, information_gain]}",
        )
    return replace(choices, sets=(*choices.sets, *sets))


def _spec(critic: str | dict[str, Any]) -> dict[str, Any]:
    return {"kind": critic} if isinstance(critic, str) else dict(critic)


def plan_view(planned: Plan, show_settings: bool) -> RenderableType:
    """Stages with state, files and cost; with `show_settings` every resolved setting and its origin."""
    parts: list[RenderableType] = [Text(f"run {planned.run}", style="bold")]
    parts += [_stage_view(number, stage) for number, stage in enumerate(planned.stages, 1)]
    projection = planned.projection
    cost = f"still to spend: {_span(projection.seconds, projection.seconds_high)}"
    if projection.tokens:
        cost += f", {projection.tokens:,.0f} tokens"
    if projection.money_high:
        cost += f", {projection.money:.2f} to {projection.money_high:.2f} of money"
    if projection.share is not None:
        cost += f" ({projection.share:.1%} of the cap)"
    parts.append(Text(f"{cost}; spent so far: {duration(planned.spent.seconds)}"))
    parts += [Text(f"a run would stop: {problem}", style="bold red") for problem in planned.problems]
    if show_settings:
        parts.append(_settings_table("recipe", planned.settings))
        parts += [_settings_table(f"{stage.name} ({stage.kind})", stage.settings) for stage in planned.stages]
    else:
        parts.append(Text("every setting with its origin: add --show-settings", style="dim"))
    return Group(*parts)


def identify_model(source: str) -> str:
    """What the weights of `source` are, wherever they lie; nothing is loaded, and no source is no identity.

    Raises:
        SettingsError: an unknown kind of source.
        ModelError: the model cannot be found.
    """
    return find(source, Cache()).content_id if source else ""


def load_recipe(path: Path, choices: Choices) -> Recipe:
    """The recipe with the profile and overrides of the command line."""
    return load(path, profile=choices.profile, sets=choices.sets)


def _options(choices: Choices, models: LateModels, sinks: tuple[Sink, ...]) -> Options:
    return Options(
        rebuild=frozenset(choices.rebuild),
        force=frozenset(choices.force),
        allow_dirty=choices.allow_dirty,
        sinks=sinks,
        identify_model=identify_model,
        rates=Rates(Cache().root / "rates"),
        shards=dict(parse_shards(text, "--shards") for text in choices.shards),
        worker_models="rung.app.late_models:LateModels",
        open_completer=open_completer,
    )


def _sinks(folder: Path, choices: Choices, notes: Console) -> list[Sink]:
    level = "error" if choices.quiet and choices.log.level != "debug" else choices.log.level
    log = choices.log.model_copy(update={"level": level})
    sinks: list[Sink] = [LogSink(log, notes), lookup("app", "tensorboard")(folder / "tensorboard")]
    return sinks if choices.quiet else [*sinks, ProgressSink(notes)]


def _stage_view(number: int, stage: PlannedStage) -> RenderableType:
    """One stage as a few lines, so that long file names fit any terminal."""
    style = {"done": "green", "drifted": "red", "gate_failed": "red", "broken": "red", "blocked": "dim"}
    state = Text(stage.state.replace("_", " "), style=style.get(stage.state, "bold"))
    head = Text.assemble(f"{number:>2}  ", (stage.name, "bold"), (f" ({stage.kind})", "dim"), "  ", state)
    lines = Table.grid(padding=(0, 2), pad_edge=True)
    lines.add_column(width=9, justify="right", style="dim")
    lines.add_column(overflow="fold")
    for detail in stage.detail:
        lines.add_row("why", Text(detail))
    lines.add_row(
        "reads", Text(", ".join(f"{name}: {path}" for name, path in stage.inputs.items()) or "no other stage")
    )
    lines.add_row("writes", Text(f"{stage.name}/ {_files(stage)}"))
    lines.add_row("cost", Text(_expected(stage)))
    return Group(head, lines)


def _files(stage: PlannedStage) -> str:
    names = [path.removeprefix(f"{stage.name}/") for path in stage.outputs]
    return ", ".join(names if len(names) <= 8 else [*names[:7], f"and {len(names) - 7} more"])


def _expected(stage: PlannedStage) -> str:
    if stage.state == "done":
        return f"took {duration(stage.spent.seconds)}"
    estimate = stage.estimate
    if not (estimate.seconds or estimate.tokens or estimate.money):
        return estimate.basis or "unknown"
    tokens = f", {estimate.tokens:,.0f} tokens" if estimate.tokens else ""
    at_once = f", {duration(estimate.wall_seconds)} by the clock" if estimate.wall_seconds < estimate.seconds else ""
    return f"{_span(estimate.seconds, estimate.seconds_high)}{at_once}{tokens} ({estimate.basis})"


def _span(low: float, high: float) -> str:
    return duration(low) if high <= low else f"{duration(low)} to {duration(high)}"


def _settings_table(title: str, rows: Sequence[Any]) -> Table:
    table = Table(box=None, padding=(0, 2), title=title, title_justify="left")
    for column in ("setting", "value", "comes from"):
        table.add_column(column, overflow="fold")
    for row in rows:
        style = "dim" if row.origin == "default" else ""
        table.add_row(Text(row.path), Text(json.dumps(row.value, ensure_ascii=False), style=style), Text(row.origin))
    return table
