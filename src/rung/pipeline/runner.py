"""Runs or resumes a recipe: skips what is finished, stops at the first gate that says no, names every ending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rung.base.errors import Drift, GateFailed, RungError
from rung.base.events import Events, JsonLines
from rung.base.files import write_json
from rung.pipeline.attempt import take_finished, work
from rung.pipeline.budget import Spend
from rung.pipeline.identity import Identity, identities, stage_drift
from rung.pipeline.interrupt import StopRequest
from rung.pipeline.ledger import Entry, Ledger, mend
from rung.pipeline.lock import locked
from rung.pipeline.monitor import observing
from rung.pipeline.outputs import leftover_spend
from rung.pipeline.recipe import Recipe, StageSpec
from rung.pipeline.review.gate import demand_review
from rung.pipeline.session import Options, Session, storage_named
from rung.pipeline.stage import Models
from rung.records.manifest import FILE_NAME, open_manifest

__all__ = ["Options", "RunResult", "StageResult", "run"]


@dataclass(frozen=True)
class StageResult:
    """How one stage ended: skipped, done, forced, gate_failed, not_started, or the code of a named ending."""

    name: str
    kind: str
    outcome: str
    spend: Spend = Spend()  # noqa: RUF009 - frozen
    message: str = ""


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `exit_code` is 0 exactly when every stage is finished and its gate passed or was forced."""

    run: str
    folder: Path
    stages: tuple[StageResult, ...]
    error: RungError | None = None

    @property
    def exit_code(self) -> int:
        """What the command line returns."""
        return self.error.exit_code if self.error else 0

    @property
    def outcome(self) -> str:
        """'done', or the code of the ending."""
        return self.error.code if self.error else "done"


def run(recipe: Recipe, runs_folder: Path, models: Models, options: Options | None = None) -> RunResult:
    """Run `recipe`, or go on with it, in `runs_folder/<run>`.

    Named endings come back in the result; anything else (a defect) is written to the ledger and raised.
    """
    chosen, folder = options or Options(), runs_folder / recipe.run
    results: list[StageResult] = []
    error: RungError | None = None
    try:
        with storage_named(recipe.run), locked(folder), StopRequest() as stop:
            _go(recipe, folder, models, chosen, stop=stop, results=results)
    except RungError as ending:
        error = ending
    finally:
        models.release()
    results += [StageResult(spec.name, spec.kind, "not_started") for spec in recipe.stages[len(results) :]]
    return RunResult(recipe.run, folder, tuple(results), error)


def _go(
    recipe: Recipe, folder: Path, models: Models, options: Options, *, stop: StopRequest, results: list[StageResult]
) -> None:
    for name in options.rebuild | options.force:
        recipe.spec(name, place="--rebuild" if name in options.rebuild else "--force")
    for name in options.shards:
        recipe.spec(name, place="--shards")
    found = identities(recipe, options.identify_model)
    _refuse_drift(recipe, folder, found, options)
    mend(folder / "events.jsonl")
    log = JsonLines(folder / "events.jsonl")
    try:
        with observing(folder, (log, *options.sinks), recipe.run) as sinks:
            session = Session(recipe, folder, models, options, stop, Ledger(folder), sinks, found)
            write_json(folder / "recipe.json", recipe.resolved())
            _pay_for_killed(session)
            for spec in recipe.stages:
                results.append(_stage(session, spec, results))
    finally:
        log.close()


def _refuse_drift(recipe: Recipe, folder: Path, found: Mapping[str, Identity], options: Options) -> None:
    kept = [spec.name for spec in recipe.stages if spec.name not in options.rebuild]
    rows = {name: fields for name in kept if (fields := stage_drift(folder / name, found[name].text))}
    if rows:
        listed = "".join(f"\n  {name}: {text}" for name, texts in rows.items() for text in texts)
        seeds = _seed_note(recipe, folder, rows)
        raise Drift(
            f"what is on disk was made from something else{seeds}:{listed}",
            place=", ".join(rows),
            hint=" ".join(f"--rebuild {name}" for name in [*sorted(options.rebuild), *rows])
            + " makes it again (the old stays until the new is whole); another `run:` name keeps both",
        )


def _seed_note(recipe: Recipe, folder: Path, names: Mapping[str, object]) -> str:
    """A stage's seed is derived, so its difference is told in terms of the recipe's."""
    for name in names:
        if (folder / name / FILE_NAME).is_file():
            old = open_manifest(folder / name).manifest.seeds.get("recipe")
            if old is not None and old != recipe.seed:
                return f" (recipe seed {old} -> {recipe.seed})"
    return ""


def _pay_for_killed(session: Session) -> None:
    """An attempt that was killed wrote no end; what it spent until shortly before is taken from its last note."""
    ended = {entry.attempt for entry in session.ledger.entries() if entry.event == "ended"}
    for spec in session.recipe.stages:
        attempt, spend = leftover_spend(session.folder / spec.name)
        if attempt and attempt not in ended:
            started = [e for e in session.ledger.entries() if e.attempt == attempt and e.event == "started"]
            session.ledger.append(
                Entry(
                    event="ended",
                    stage=spec.name,
                    attempt=attempt,
                    fingerprint=started[0].fingerprint if started else "",
                    outcome="killed",
                    spend=asdict(spend),
                )
            )


def _stage(session: Session, spec: StageSpec, results: list[StageResult]) -> StageResult:
    events = Events(session.sinks, run=session.recipe.run, stage=spec.name)
    finished = (session.folder / spec.name / FILE_NAME).is_file() and spec.name not in session.options.rebuild
    try:
        if finished:
            outcome, spend = take_finished(session, spec), Spend()
        else:
            events.log(f"stage {spec.name} ({spec.kind}) starts")
            outcome, spend = work(session, spec)
        demand_review(session, spec)
    except RungError as error:
        code = "gate_failed" if isinstance(error, GateFailed) else error.code
        results.append(StageResult(spec.name, spec.kind, code, message=error.message))
        events.log(f"stage {spec.name} ended: {error}", level="error", outcome=code)
        raise
    events.log(f"stage {spec.name} is finished, skipped" if outcome == "skipped" else f"stage {spec.name}: {outcome}")
    return StageResult(spec.name, spec.kind, outcome, spend)
