"""What every command of the command line needs: its function, merged choices, consoles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rung.app.choices import Choices
from rung.app.logging import LogSettings
from rung.app.options import Level
from rung.app.terminal import SafeConsole
from rung.base.lookup import lookup

__all__ = ["command", "merged", "notes", "out"]


def command(name: str) -> Any:
    """The function behind a command, imported now and not before."""
    return lookup("app.commands", name)


def merged(
    choices: Choices, runs: Path | None, quiet: bool = False, level: Level | None = None, log_file: Path | None = None
) -> Choices:
    """Options may stand before or behind the command; those behind win."""
    values: dict[str, Any] = {}
    if level is not None:
        values["level"] = level.value
    if log_file is not None:
        values["file"] = log_file
    log = LogSettings.model_validate({**choices.log.model_dump(), **values})
    return replace(choices, runs=runs or choices.runs, quiet=quiet or choices.quiet, log=log)


def out() -> Console:
    """Where results go."""
    return SafeConsole()


def notes() -> Console:
    """Where everything else goes: standard error."""
    return SafeConsole(stderr=True)
