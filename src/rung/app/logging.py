"""Logs: structured lines with the run's id from every stage, to the terminal and to a file; no secret in either.

The terminal gets readable lines, the file JSON lines. Level and file are the caller's choice.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import structlog
from rich.console import Console
from rich.text import Text

from rung.app.terminal import visible
from rung.base.errors import StorageError
from rung.base.secrets import redact
from rung.base.settings import Field, Settings

__all__ = ["LogSettings", "LogSink"]

_OF_SPANS = ("start", "seconds", "trace_id", "span_id", "parent_id")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LogSettings(Settings):
    """What is logged, and where besides the terminal."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least that is shown")
    file: Path | None = Field(None, description="JSON lines are added to this file; none: terminal only")
    terminal: bool = Field(True, description="whether lines go to the terminal")


class LogSink:
    """Writes `log`, `degraded` and slow `span` events.

    Raises:
        StorageError: the log file cannot be opened.
    """

    def __init__(self, settings: LogSettings, console: Console) -> None:
        self._console, self._file = console, None
        self._loggers = []
        if settings.terminal:
            colours = console.is_terminal and not console.no_color
            self._loggers.append(_logger(self._show, structlog.dev.ConsoleRenderer(colors=colours), settings.level))
        if settings.file is not None:
            try:
                settings.file.parent.mkdir(parents=True, exist_ok=True)
                self._file = settings.file.open("a", encoding="utf-8")
            except OSError as error:
                raise StorageError(f"cannot open the log file: {error.strerror}", place=str(settings.file)) from error
            self._loggers.append(
                _logger(self._store, structlog.processors.JSONRenderer(ensure_ascii=False, default=str), settings.level)
            )

    def handle(self, event: dict[str, Any]) -> None:
        """Write one event at its level; metrics and progress go elsewhere."""
        fields = {k: v for k, v in event.items() if k not in ("kind", "message", "level", "time")}
        kind = event["kind"]
        if kind == "span":
            message, level = f"{fields.pop('name')} took {event['seconds']:.1f} s", "debug"
            fields = {k: v for k, v in fields.items() if k not in _OF_SPANS and v is not False}
        elif kind in ("log", "degraded"):
            message, level = str(event["message"]), str(event["level"])
        else:
            return
        stamp = datetime.fromtimestamp(event["time"], UTC).isoformat(timespec="seconds")
        for logger in self._loggers:
            # `event` is structlog's own name for the message; a field of that name would hide it.
            logger.log(
                _LEVELS.get(level, 20),
                visible(message),
                **{f"field_{k}" if k == "event" else k: _shown(v) for k, v in fields.items()},
                timestamp=stamp,
            )

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _show(self, line: str) -> None:
        self._console.print(Text.from_ansi(line), soft_wrap=True, highlight=False)

    def _store(self, line: str) -> None:
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()


class _Writer:
    """What structlog calls with each finished line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.debug = self.info = self.warning = self.error = self.msg = write


def _logger(write: Callable[[str], None], renderer: Any, level: str) -> Any:
    return structlog.wrap_logger(
        _Writer(write),
        processors=[structlog.processors.add_log_level, _without_secrets, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
    )


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) else value


def _without_secrets(_: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {k: redact(v) if isinstance(v, str) else v for k, v in fields.items()}
