"""What would run, in which order, from which files, with which settings, at what cost. Nothing is written or run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.base.errors import DataError
from rung.base.fingerprint import plain
from rung.pipeline.budget import Spend
from rung.pipeline.estimate import Projection, at_once, project, stage_estimate
from rung.pipeline.identity import identities, stage_drift
from rung.pipeline.ledger import Ledger
from rung.pipeline.outputs import begun_identity
from rung.pipeline.recipe import Recipe, StageSpec
from rung.pipeline.session import Options
from rung.pipeline.stage import Estimate
from rung.records.manifest import FILE_NAME, Opened, open_manifest

__all__ = ["Plan", "PlannedStage", "SettingRow", "plan"]

_STOPPING = ("drifted", "gate_failed", "broken")


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One resolved setting: its path, its value, and which file and line, profile, flag or rule it came from."""

    path: str
    value: Any
    origin: str


@dataclass(frozen=True)
class PlannedStage:
    """One stage as it stands.

    `state` is done, to_do, begun (unfinished work goes on), rebuild, drifted, gate_failed, broken (its manifest cannot
    be read) or blocked (an earlier stage stops the run); `detail` says why. `inputs` maps input names to the manifest
    read, `outputs` are the files written (patterns until the stage is done); both relative to the run's folder.
    `estimate` has the machine's price in its money; `spent` is what all attempts took so far.
    """

    name: str
    kind: str
    state: str
    detail: tuple[str, ...]
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    settings: tuple[SettingRow, ...]
    estimate: Estimate
    spent: Spend


@dataclass(frozen=True)
class Plan:
    """A recipe against what is on disk. `projection` covers the stages that are not done; `problems` are what a run
    would stop at before any work."""

    run: str
    stages: tuple[PlannedStage, ...]
    settings: tuple[SettingRow, ...]
    projection: Projection
    spent: Spend
    problems: tuple[str, ...]


def plan(recipe: Recipe, runs_folder: Path, options: Options | None = None) -> Plan:
    """Lay out what `run` would do.

    Raises:
        SettingsError: `rebuild` or `force` name a stage that is not there.
        DataError: the run's ledger cannot be read.
    """
    chosen, folder = options or Options(), runs_folder / recipe.run
    for name in chosen.rebuild | chosen.force:
        recipe.spec(name, place="--rebuild" if name in chosen.rebuild else "--force")
    found, ledger = identities(recipe, chosen.identify_model), Ledger(folder)
    opened: dict[str, Opened] = {}
    rows: list[PlannedStage] = []
    for spec in recipe.stages:
        state, detail = _state(folder / spec.name, spec, found[spec.name].text, chosen)
        stopping = next((row.name for row in rows if row.state in _STOPPING), "")
        if stopping and state != "done" and state not in _STOPPING:
            state, detail = "blocked", (f"the run stops at {stopping}",)
        if state == "done":
            opened[spec.name] = open_manifest(folder / spec.name)
        inputs = {name: opened[target] for name, target in spec.inputs.items() if target in opened}
        row = PlannedStage(
            name=spec.name,
            kind=spec.kind,
            state=state,
            detail=detail,
            inputs={name: f"{target}/{FILE_NAME}" for name, target in spec.inputs.items()},
            outputs=_files(spec, opened.get(spec.name)),
            settings=_settings(spec, inputs),
            estimate=at_once(
                stage_estimate(spec, inputs, found[spec.name], chosen.rates, recipe.terms),
                recipe.executor.num_workers,
            ),
            spent=ledger.spent(spec.name),
        )
        rows.append(row)
    return Plan(
        run=recipe.run,
        stages=tuple(rows),
        settings=_top_settings(recipe),
        projection=project([row.estimate for row in rows if row.state != "done"], recipe.budget),
        spent=ledger.spent(),
        problems=tuple(f"{row.name}: {row.state}: {'; '.join(row.detail)}" for row in rows if row.state in _STOPPING),
    )


def _state(folder: Path, spec: StageSpec, identity: str, options: Options) -> tuple[str, tuple[str, ...]]:
    if spec.name in options.rebuild:
        return "rebuild", ()
    try:
        if fields := stage_drift(folder, identity):
            return "drifted", tuple(fields)
        if not (folder / FILE_NAME).is_file():
            return ("begun" if begun_identity(folder) else "to_do"), ()
        manifest = open_manifest(folder).manifest
    except DataError as error:
        return "broken", (error.message,)
    if manifest.outcome == "gate_failed" and spec.name not in options.force:
        return "gate_failed", tuple(manifest.gate.get("reasons", ()))
    return "done", ()


def _files(spec: StageSpec, opened: Opened | None) -> tuple[str, ...]:
    if opened is None:
        names = [f"{output}-*.jsonl.zst" for output in spec.stage.outputs]
    else:
        shards = [info.name for infos in opened.manifest.shards.values() for info in infos]
        names = [*shards, *(file.name for file in opened.manifest.files)]
    return tuple(f"{spec.name}/{name}" for name in [*names, FILE_NAME])


def _settings(spec: StageSpec, inputs: Mapping[str, Opened]) -> tuple[SettingRow, ...]:
    settings, origins = spec.with_derived(spec.stage.derived(inputs))
    return tuple(SettingRow(path, _at(settings, path), origin) for path, origin in origins.items())


def _top_settings(recipe: Recipe) -> tuple[SettingRow, ...]:
    values = {
        "run": recipe.run,
        "model": recipe.model,
        "seed": recipe.seed,
        "budget": plain(recipe.budget),
        "executor": recipe.executor_settings,
        "prices": plain(recipe.prices),
    }
    return tuple(SettingRow(path, _at(values, path), origin) for path, origin in recipe.origins.items())


def _at(values: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; a key may hold dots itself, so the longest that fits is taken at each step."""
    if path in values:
        return values[path]
    head = next(key for key in sorted(values, key=len, reverse=True) if path.startswith(f"{key}."))
    return _at(values[head], path[len(head) + 1 :])
