"""What the command line decides about runs, apart from the recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rung.app.logging import LogSettings

__all__ = ["Choices"]


@dataclass(frozen=True)
class Choices:
    """Where runs lie, what overrides the recipe, and how much is said; `log` is about what is said while working."""

    runs: Path = Path("runs")
    profile: str = ""
    sets: tuple[str, ...] = ()
    rebuild: tuple[str, ...] = ()
    force: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    allow_dirty: bool = False
    quiet: bool = False
    log: LogSettings = field(default_factory=LogSettings)
