"""Making an output again: the old one is moved aside, and goes only when a new one is whole and through its gate.

Its manifest stays in `.history`, so that iterations (settings, figures, verdict, cost) can be laid side by side.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rung.base.files import write_bytes
from rung.records.manifest import FILE_NAME, Manifest, open_manifest

__all__ = ["begun_again", "discard_replaced", "iterations", "set_aside"]


def begun_again(run_folder: Path, stage: str) -> bool:
    """Whether an old output of `stage` is aside already: an earlier rebuild was interrupted, or failed its gate."""
    return bool(_aside(run_folder, stage))


def set_aside(run_folder: Path, stage: str) -> None:
    """Move what `stage` has out of the way; nothing is deleted. Its manifest, when it has one that can be read, is
    copied to the history first."""
    folder = run_folder / stage
    if not folder.is_dir():
        return
    if (folder / FILE_NAME).is_file():
        _remember(run_folder, stage, folder / FILE_NAME)
    target = run_folder / ".replaced" / stage / f"{len(_aside(run_folder, stage)) + 1:04d}"
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.replace(target)


def discard_replaced(run_folder: Path, stage: str) -> None:
    """Delete what `set_aside` moved; called when the new output is whole and passed its gate."""
    shutil.rmtree(run_folder / ".replaced" / stage, ignore_errors=True)


def iterations(run_folder: Path, stage: str) -> list[Manifest]:
    """Manifests of all iterations of a stage, oldest first, the present one last.

    Raises:
        DataError: one of them cannot be read.
    """
    folders = [*sorted((run_folder / ".history" / stage).glob("*")), run_folder / stage]
    return [open_manifest(folder).manifest for folder in folders if (folder / FILE_NAME).is_file()]


def _aside(run_folder: Path, stage: str) -> list[Path]:
    return sorted((run_folder / ".replaced" / stage).glob("*"))


def _remember(run_folder: Path, stage: str, manifest: Path) -> None:
    data = manifest.read_bytes()
    kept = sorted((run_folder / ".history" / stage).glob("*"))
    if kept and (kept[-1] / FILE_NAME).read_bytes() == data:
        return
    target = run_folder / ".history" / stage / f"{len(kept) + 1:04d}"
    target.mkdir(parents=True, exist_ok=True)
    write_bytes(target / FILE_NAME, data)
