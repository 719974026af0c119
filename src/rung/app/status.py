"""`rung status`: a run as it stands, seen from another terminal. Only files and the system's own figures are read."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rung.app import progress
from rung.app.progress import duration
from rung.app.runs import find_run
from rung.base.files import read_json
from rung.pipeline.ledger import Ledger
from rung.pipeline.lock import holder
from rung.pipeline.monitor import STATUS, Status, Warned, read_status
from rung.pipeline.readings import Readings, cpu_percent, read
from rung.records.manifest import FILE_NAME, open_manifest

__all__ = ["Live", "find_folder", "look", "view"]

_BETWEEN_READINGS = 0.2
_COLUMNS = ("stage", "kind", "state", "time", "tokens")


@dataclass(frozen=True)
class Live:
    """What was found: `process` works on the run now (None: nobody does), `readings` and `cpu` are its own of now."""

    folder: Path
    status: Status | None
    process: int | None
    stages: tuple[tuple[str, str], ...]
    readings: Readings | None = None
    cpu: float | None = None
    seconds: float = 0.0


def find_folder(runs: Path, target: str) -> Path:
    """The folder of a run that has begun, finished or not.

    Raises:
        DataError: there is none.
    """
    for folder in (runs / target, Path(target)):
        if (folder / STATUS).is_file():
            return folder
    return find_run(runs, target)


def look(folder: Path) -> Live:
    """Read what there is to read; a process at work is measured for a fifth of a second."""
    process, found = holder(folder), read_status(folder)
    before, cpu = read(process) if process else None, None
    if process and before is not None:
        start = time.monotonic()
        time.sleep(_BETWEEN_READINGS)
        now = read(process)
        before, cpu = now, cpu_percent(before, now, time.monotonic() - start)
    return Live(folder, found, process, _stages(folder), before, cpu, time.time() - found.updated if found else 0.0)


def view(live: Live) -> RenderableType:
    """On one screen: who works, at what, how far, how fast, what it uses, and what it warned of."""
    status = live.status
    parts: list[RenderableType] = [Text(_headline(live), style="bold")]
    if live.process is not None and status is not None and not status.ended:
        parts += [Text(f"  {line}") for line in _tracks(status)]
        parts += [Text(f"  {name}: {value:.4g}") for name, value in sorted(status.rates.items())]
    if live.readings is not None:
        parts.append(Text(f"  {_uses(live.readings, live.cpu)}"))
    parts.append(_table(live))
    warnings = status.warnings if status else ()
    parts += [Text(_warning(warned), style="yellow") for warned in warnings]
    return Group(*parts)


def _headline(live: Live) -> str:
    name = live.folder.name
    if live.process is None:
        return f"{name}: nobody works on it now"
    if live.status is None or live.status.ended:
        return f"{name}: process {live.process} has it, and has said nothing yet"
    ago = f"last sign {duration(live.seconds)} ago"
    return f"{name}: process {live.process} works on {live.status.stage or 'the recipe'}, {ago}"


def _tracks(status: Status) -> list[str]:
    lines = []
    for found in status.tracks:
        track = progress.Track(found.name, found.total, found.unit)
        for moment, done in found.points:
            track.add(moment, done)
        lines.append(track.line())
    return lines


def _uses(readings: Readings, cpu: float | None) -> str:
    memory = "memory unknown" if readings.resident_bytes is None else f"{readings.resident_bytes / 2**30:.2f} GiB"
    parts = [f"{memory} in {readings.num_processes} process{'es' if readings.num_processes != 1 else ''}"]
    parts.append("processor use unknown" if cpu is None else f"processor {cpu:.0f} % of one core")
    if readings.device_used is not None and readings.device_bytes is not None:
        parts.append(f"device {readings.device_used:.0%}, {readings.device_bytes / 2**30:.2f} GiB on all devices")
    else:
        parts.append(readings.note)
    return " · ".join(parts)


def _stages(folder: Path) -> tuple[tuple[str, str], ...]:
    """Names and kinds in the recipe's order; those on disk when the recipe cannot be read."""
    try:
        rows: list[dict[str, Any]] = read_json(folder / "recipe.json")["stages"]
        return tuple((str(row["name"]), str(row["kind"])) for row in rows)
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        return tuple((path.parent.name, "") for path in sorted(folder.glob(f"*/{FILE_NAME}")))


def _table(live: Live) -> Table:
    table, ledger = Table(box=None, padding=(0, 2)), Ledger(live.folder)
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column in ("time", "tokens") else "left")
    for name, kind in live.stages:
        spent = ledger.spent(name)
        tokens = f"{spent.tokens:,.0f}" if spent.tokens else ""
        state = _state(live, name)
        table.add_row(Text(name), Text(kind), Text(state), duration(spent.seconds) if spent.seconds else "", tokens)
    return table


def _state(live: Live, name: str) -> str:
    if (live.folder / name / FILE_NAME).is_file():
        return open_manifest(live.folder / name).manifest.outcome.replace("_", " ")
    at_work = live.process is not None and live.status is not None and live.status.stage == name
    begun = (live.folder / name).is_dir()
    return "works" if at_work else "begun" if begun else "to do"


def _warning(warned: Warned) -> str:
    moment = time.strftime("%H:%M:%S", time.localtime(warned.time))
    return f"{moment} {warned.stage}: {warned.message}" if warned.stage else f"{moment} {warned.message}"
