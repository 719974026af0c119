"""`rung collect`: bring together the shards of a stage that several machines made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rung.app.progress import duration
from rung.base.errors import SettingsError
from rung.pipeline.collect import Collected
from rung.pipeline.collect import collect as collect_shards

__all__ = ["collect"]


def collect(runs: Path, target: str, sources: Sequence[Path], out: Console) -> None:
    """Take finished shards of RUN/STAGE from `sources` and say what came.

    Raises:
        SettingsError: `target` does not name a stage.
        DataError, Drift: what lies there cannot be taken; nothing of that folder was.
    """
    run, _, stage = target.strip("/").rpartition("/")
    if not run:
        raise SettingsError(f"'{target}' names no stage", place="RUN/STAGE", hint="rung collect RUN/STAGE FROM...")
    folder = runs / run if (runs / run).is_dir() or not Path(run).is_dir() else Path(run)
    for row in collect_shards(folder, stage, sources):
        out.print(Text(_line(row)), soft_wrap=True)
    out.print(Text("run the recipe again: it makes what is still missing and closes the stage"))


def _line(row: Collected) -> str:
    cost = f", {duration(row.spend.seconds)} of work there" if row.spend.seconds else ""
    return f"{row.source}: {row.num_taken} files taken, {row.num_there} were here already{cost}"
