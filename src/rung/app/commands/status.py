"""`rung status`: a running job from another terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rung.app.status import find_folder, look, view

__all__ = ["status"]


def status(runs: Path, run: str, out: Console) -> None:
    """Print where a run stands."""
    out.print(view(look(find_folder(runs, run))))
