"""`rung migrate`: bring a run to the schema version that this rung reads."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from rung.pipeline.migrate import BACKUPS, Migrated, run_folder
from rung.pipeline.migrate import migrate as migrate_run
from rung.records.manifest import SCHEMA_VERSION

__all__ = ["migrate"]


def migrate(runs: Path, target: str, dry_run: bool, out: Console) -> None:
    """Migrate a run (or the run that a stage belongs to) and say what was done.

    Raises:
        DataError: nothing is there, it is newer than this rung, or it is damaged; what was not named is unchanged.
    """
    below = runs / target
    folder = run_folder(below if below.is_dir() else Path(target))
    rows = migrate_run(folder, dry_run=dry_run)
    for row in rows:
        out.print(Text(_line(row, "would be" if dry_run else "is")))
    if not rows:
        out.print(Text(f"nothing to do: {folder.name} is at schema version {SCHEMA_VERSION}"))
    elif not dry_run:
        out.print(Text(f"what was there before is kept in {folder / BACKUPS}"), soft_wrap=True)


def _line(row: Migrated, verb: str) -> str:
    if row.only_inputs:
        return f"{row.name}: its note of what it read {verb} brought along"
    return f"{row.name}: version {row.before} {verb} brought to {SCHEMA_VERSION}"
