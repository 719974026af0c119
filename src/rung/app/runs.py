"""Finding outputs on disk: a run is a folder of stage folders, a stage's output is a folder with a manifest.

Commands name them as `RUN`, `RUN/STAGE` (below the runs folder) or as any path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.base.errors import DataError
from rung.base.settings import nearest
from rung.records.manifest import FILE_NAME, Manifest, Opened, open_manifest

__all__ = ["REPORT_NAME", "Output", "find_output", "find_run", "known_runs", "outputs_of", "records_of"]


REPORT_NAME = "report.html"


@dataclass(frozen=True, slots=True)
class Output:
    """A finished output: where it is and what it is."""

    folder: Path
    opened: Opened

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        return self.opened.manifest


def records_of(output: Output, record_type: str) -> list[Any]:
    """All records of one type, from whichever of the stage's outputs hold it, in order."""
    shards = output.manifest.shards.items()
    names = [name for name, infos in shards if any(info.record_type == record_type for info in infos)]
    return [record for name in names for record in output.opened.records(name)]


def known_runs(runs: Path) -> list[str]:
    """Names of the folders below `runs` that hold at least one finished stage."""
    if not runs.is_dir():
        return []
    return sorted(p.name for p in runs.iterdir() if p.is_dir() and any(p.glob(f"*/{FILE_NAME}")))


def outputs_of(folder: Path) -> list[Output]:
    """Every finished output of the run in `folder`, parents before children, older before newer."""
    found = [Output(path.parent, open_manifest(path.parent)) for path in sorted(folder.glob(f"*/{FILE_NAME}"))]
    found.sort(key=lambda output: (output.manifest.started, output.manifest.name))
    ordered: list[Output] = []
    waiting = list(found)
    present = {output.manifest.fingerprint for output in found}
    while waiting:
        placed = {output.manifest.fingerprint for output in ordered}
        ready = [o for o in waiting if all(p in placed or p not in present for p in o.manifest.parents.values())]
        # Hand-edited manifests may name each other as parents; they are still shown, in order of time.
        ordered.append((ready or waiting)[0])
        waiting.remove(ordered[-1])
    return ordered


def find_run(runs: Path, target: str) -> Path:
    """The folder of the run called `target`.

    Raises:
        DataError: there is no such run, or nothing in it is finished; the known ones are listed.
    """
    for folder in (runs / target, Path(target)):
        if folder.is_dir() and any(folder.glob(f"*/{FILE_NAME}")):
            return folder
    known = known_runs(runs)
    hint = nearest(target, known) if known else "run a recipe first: rung run recipes/quickstart.yaml"
    raise DataError(f"no finished run is called '{target}'", place=str(runs), hint=hint)


def find_output(runs: Path, target: str) -> Output:
    """The output called `RUN/STAGE`, or the folder at that path.

    Raises:
        DataError: there is none; the stages of that run, or the known runs, are listed.
    """
    for folder in (runs / target, Path(target)):
        if (folder / FILE_NAME).is_file():
            return Output(folder, open_manifest(folder))
    run, _, stage = target.strip("/").rpartition("/")
    folder = find_run(runs, run or target)
    stages = [output.manifest.name for output in outputs_of(folder)]
    raise DataError(
        f"run '{folder.name}' has no finished stage '{stage}'"
        if run
        else f"'{target}' is a run: name one of its stages",
        place=str(folder),
        hint=nearest(stage if run else "", stages),
    )
