"""A large run out of a pilot: its recipe, its results as files, and the README that says what it was and cost.

The recipe holds the pilot and what the pilot was made from, word for word as their manifests have it, so that a run of
it finds them finished, recomputes their gates, and goes on with the large stage and its merge. There is no second way
to run anything.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rung.app.progress import duration
from rung.base.errors import SettingsError
from rung.base.files import read_json, write_bytes, write_json, write_text
from rung.base.fingerprint import canonical, plain
from rung.datagen.qc import Thresholds, decide, figures
from rung.datagen.qc_report import summary
from rung.pipeline.estimate import at_once
from rung.pipeline.ledger import Ledger
from rung.pipeline.plan import Plan, PlannedStage
from rung.pipeline.recipe import Recipe
from rung.records.manifest import FILE_NAME, Manifest, Opened, open_manifest
from rung.records.types import to_plain

__all__ = ["Scale", "readme", "scale_of", "write_recipe", "write_results"]


@dataclass(frozen=True)
class Scale:
    """What is asked for. `command` is what was typed."""

    pilot: Opened
    run_folder: Path
    count: int
    num_shards: int
    num_candidates: int
    output: Path
    command: tuple[str, ...]

    @property
    def data(self) -> str:
        """Name of the stage that makes the shards; its amounts are in it, so that two scales of one pilot live side
        by side."""
        best = f"-best{self.num_candidates}" if self.num_candidates else ""
        return f"scale-{self.count}x{self.num_shards}{best}"

    @property
    def merged(self) -> str:
        """Name of the stage that joins them."""
        return self.data.replace("scale", "data", 1)

    def beside(self, ending: str) -> Path:
        """A path beside the output."""
        return self.output.with_name(f"{self.output.stem}{ending}")


def scale_of(manifest: Path, wanted: tuple[int, int, int], output: Path, command: Sequence[str]) -> Scale:
    """The scale of the pilot whose manifest is named; `wanted` are records, shards, responses (0: the pilot's).

    Raises:
        DataError: there is no manifest.
        SettingsError: it is no data stage, or there are fewer records than shards.
    """
    folder = (manifest if manifest.is_dir() else manifest.parent).resolve()
    pilot = open_manifest(folder)
    if pilot.manifest.stage != "bootstrap":
        raise SettingsError(
            f"'{pilot.manifest.name}' is a {pilot.manifest.stage}, no pilot of data",
            place="--pilot-manifest",
            hint="name the manifest.json of a bootstrap stage",
        )
    if wanted[0] < wanted[1]:
        raise SettingsError(f"{wanted[0]} records cannot be made in {wanted[1]} shards", place="--num-shards")
    return Scale(pilot, folder.parent, *wanted, output, tuple(command))


def write_recipe(scale: Scale) -> Path:
    """The recipe of the large run, beside the output."""
    pilot, path = scale.pilot.manifest, scale.run_folder / "recipe.json"
    stored = read_json(path) if path.is_file() else {"stages": []}
    before = {key: stored[key] for key in ("budget", "executor") if key in stored}
    reviews = {one["name"]: {"review": one["review"]} for one in stored["stages"] if "review" in one}
    large = {"name": scale.data, "settings_from": pilot.name, "calibration": pilot.settings["calibration"],
             "count": scale.count, "shards": scale.num_shards, "num_candidates": scale.num_candidates}  # fmt: skip
    joined = {"name": scale.merged, "of": scale.data, "thresholds": pilot.settings["thresholds"]}
    stages = [_stage(manifest, reviews.get(manifest.name, {})) for manifest in _lineage(scale)]
    values = {
        "run": pilot.run,
        "model": pilot.model.get("source", ""),
        "seed": pilot.seeds["recipe"],
        **before,
        "stages": [*stages, {"bootstrap": large}, {"merge": joined}],
    }
    written = scale.beside(".recipe.yaml")
    write_text(written, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return written


def _lineage(scale: Scale) -> list[Manifest]:
    """The pilot and everything it was made from, parents first."""
    found = [open_manifest(path.parent).manifest for path in sorted(scale.run_folder.glob(f"*/{FILE_NAME}"))]
    by_fingerprint = {manifest.fingerprint: manifest for manifest in found}
    ordered: dict[str, Manifest] = {}

    def add(manifest: Manifest) -> None:
        """Parents, then itself."""
        for parent in manifest.parents.values():
            if parent in by_fingerprint:
                add(by_fingerprint[parent])
        ordered.setdefault(manifest.name, manifest)

    add(scale.pilot.manifest)
    return list(ordered.values())


def _stage(manifest: Manifest, review: dict[str, Any]) -> dict[str, Any]:
    """The settings as they were identified, without what was derived from inputs; with the review it must have."""
    return {manifest.stage: {"name": manifest.name, **review, **json.loads(manifest.identity)["settings"]}}


def write_results(scale: Scale) -> None:
    """The merged records as JSON lines, and a folder per shard with its seed, its files and its own QC."""
    merged, data = open_manifest(scale.run_folder / scale.merged), open_manifest(scale.run_folder / scale.data)
    lines = "".join(canonical(to_plain(record)) + "\n" for record in merged.records("sft"))
    write_bytes(scale.output, lines.encode())
    for index in range(len(data.manifest.shards["sft"])):
        folder = scale.beside("_shards") / f"shard_{index:02d}"
        write_json(folder / "summary.json", _shard_summary(scale, data, index))


def _shard_summary(scale: Scale, data: Opened, index: int) -> dict[str, Any]:
    limits = Thresholds.model_validate(data.manifest.settings["thresholds"])
    instructions, candidates, records = (list(data.shard(kind, index)) for kind in ("instruction", "candidate", "sft"))
    found = figures(instructions, candidates, records, limits)
    return {
        "shard": index,
        "seed": data.manifest.seeds[f"shard_{index}"],
        "run": data.manifest.run,
        "stage": data.manifest.name,
        "fingerprint": data.manifest.fingerprint,
        "files": {kind: plain(infos[index]) for kind, infos in data.manifest.shards.items()},
        "qc": summary(found, limits, decide(found, limits)),
    }


def readme(scale: Scale, recipe: Recipe, planned: Plan) -> str:
    """Settings, command, cost and timeline; with what it really took once it is done."""
    done = [open_manifest(path) for name in (scale.data, scale.merged)
            if (path := scale.run_folder / name) and (path / FILE_NAME).is_file()]  # fmt: skip
    pilot, row = scale.pilot.manifest, next(stage for stage in planned.stages if stage.name == scale.data)
    parts = [
        f"# {scale.count} records from the pilot `{pilot.run}/{pilot.name}`",
        f"Run `{pilot.run}`, stages `{scale.data}` and `{scale.merged}`; {scale.num_shards} shards, "
        f"{recipe.executor.num_workers} at a time.",
        "## Command\n\n```\n" + shlex.join(scale.command) + "\n```\n\n"
        "The same as `rung run " + scale.beside(".recipe.yaml").name + "`. Stopped, it goes on with the same command.",
        "## Estimate\n\n" + "\n".join(_estimate(row, recipe)),
        *([] if not done else ["## Actual\n\n" + "\n".join(_actual(scale, done, recipe))]),
        "## Timeline (UTC)\n\n" + "\n".join(_timeline(scale, done)),
        "## Settings\n\n```yaml\n" + yaml.safe_dump(_settings(row), sort_keys=True, allow_unicode=True) + "```",
    ]
    return "\n\n".join(parts) + "\n"


def _settings(stage: PlannedStage) -> dict[str, Any]:
    return {row.path: row.value for row in stage.settings}


def _estimate(stage: PlannedStage, recipe: Recipe) -> list[str]:
    found, workers, cap = stage.estimate, recipe.executor.num_workers, recipe.budget.money
    if not found.seconds:
        return [f"- {found.basis or 'none: the pilot has no rate'}"]
    price, high = recipe.budget.price_per_hour, max(found.seconds, found.seconds_high)
    clock = at_once(found, workers).wall_seconds
    money = (
        f"- cost: {found.money:.2f} to {found.money + (high - found.seconds) / 3600 * price:.2f} at {price:g} an hour"
    )
    return [
        f"- device time: {duration(found.seconds)} to {duration(high)} ({found.basis})",
        f"- by the clock: {duration(clock)} with {workers} at a time; "
        + ", ".join(f"{duration(at_once(found, n).wall_seconds)} with {n}" for n in (1, 2, 5, 10)),
        f"- tokens: {found.tokens:,.0f}",
        money + (f", {found.money / cap:.1%} of the cap of {cap:g}" if cap else ""),
    ]


def _actual(scale: Scale, done: Sequence[Opened], recipe: Recipe) -> list[str]:
    rows = ["| | estimated | actual | error |", "|---|---:|---:|---:|"]
    first = done[0].manifest
    for name in ("seconds", "tokens", "money", "wall_seconds"):
        expected, spent = first.estimate.get(name), first.spend.get(name, 0.0)
        error = first.estimate.get(f"{name}_error_percent")
        shown = "" if error is None else f"{error:+.0f} %"
        rows.append(
            f"| {name.replace('_', ' ')} | {'' if expected is None else f'{expected:.6g}'} | {spent:.6g} | {shown} |"
        )
    totals = Ledger(scale.run_folder).totals(recipe.budget.money)
    share = "" if totals.share is None else f", {totals.share:.1%} of the cap"
    counts = ", ".join(f"{opened.manifest.name}: {opened.count('sft')} records" for opened in done)
    return [*rows, "", f"- {counts}", f"- the whole run so far: {duration(totals.total.seconds)}, "
            f"{totals.total.money:.2f}{share}"]  # fmt: skip


def _timeline(scale: Scale, done: Sequence[Opened]) -> list[str]:
    rows = [scale.pilot.manifest, *(opened.manifest for opened in done)]
    listed = [f"- {row.name}: {row.started} to {row.ended}" for row in rows]
    missing = [name for name in (scale.data, scale.merged) if name not in {row.name for row in rows}]
    return [*listed, *(f"- {name}: not finished" for name in missing)]
