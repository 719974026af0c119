"""Progress on everything that takes longer than two seconds: how far, how fast, how long still.

A terminal gets live bars that vanish when done and leave one line; anything else gets plain lines, at most one every
few seconds, so that a log file stays readable.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

__all__ = ["ProgressSink", "Track", "duration"]

_SHOW_AFTER = 2.0
_WINDOW = 30.0


def duration(seconds: float) -> str:
    """`seconds` in words short enough for a progress line: 8 s, 2 min 05 s, 1 h 07 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class Track:
    """One running piece of work. The rate is that of the last half minute, so a slow start does not spoil the forecast,
    and it counts only what this process did: a resumed piece that begins at 300 of 400 is not "300 in a second"."""

    name: str
    total: float
    unit: str
    points: deque[tuple[float, float]] = field(default_factory=deque)
    started: float = 0.0
    task: TaskID | None = None
    spoken: float = 0.0

    def add(self, now: float, done: float) -> None:
        """Note that `done` was reached at time `now`."""
        if not self.points:
            self.started = self.spoken = now
        self.points.append((now, done))
        while len(self.points) > 2 and now - self.points[0][0] > _WINDOW:
            self.points.popleft()

    @property
    def done(self) -> float:
        """How far it is."""
        return self.points[-1][1]

    @property
    def elapsed(self) -> float:
        """Seconds since this process first heard of it."""
        return self.points[-1][0] - self.started

    def rate(self) -> float:
        """Units a second, 0.0 while unknown."""
        (start, before), (now, done) = self.points[0], self.points[-1]
        return (done - before) / (now - start) if now > start else 0.0

    def left(self) -> float | None:
        """Seconds to go, None while unknown."""
        rate = self.rate()
        return (self.total - self.done) / rate if rate > 0 else None

    def line(self) -> str:
        """`name 40/120 records · 8.3/s · 10 s left`."""
        unit = f" {self.unit}" if self.unit else ""
        text = f"{self.name} {self.done:g}/{self.total:g}{unit}"
        if rate := self.rate():
            text += f" · {rate:.3g}{unit}/s"
        left = self.left()
        if self.done >= self.total:
            return f"{text} · done in {duration(self.elapsed)}"
        return text if left is None else f"{text} · {duration(left)} left"


class ProgressSink:
    """Shows `progress` events.

    Args:
        console: where to; a terminal gets bars, anything else lines.
        every: seconds between two plain lines of one piece of work.
        clock: the time source, replaced in tests.
    """

    def __init__(self, console: Console, every: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._every, self._clock = console, every, clock
        self._tracks: dict[str, Track] = {}
        self._live: Progress | None = None

    def handle(self, event: dict[str, Any]) -> None:
        """Take one event; all but progress pass by."""
        if event["kind"] != "progress":
            return
        name = " · ".join(str(part) for part in (event.get("stage"), event["name"]) if part)
        track = self._tracks.get(name)
        if track is None:
            track = self._tracks[name] = Track(name, float(event["total"]), str(event.get("unit", "")))
        track.total = float(event["total"])
        track.add(self._clock(), float(event["done"]))
        if self._console.is_terminal:
            self._draw(track)
        else:
            self._say(track)
        if track.done >= track.total:
            self._finish(track)

    def close(self) -> None:
        """Take the bars off the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._tracks.clear()

    def _draw(self, track: Track) -> None:
        if track.task is None and track.elapsed < _SHOW_AFTER and (track.left() or 0.0) < _SHOW_AFTER:
            return
        live = self._bars()
        if track.task is None:
            track.task = live.add_task(escape(track.name), total=track.total, detail="")
        left = track.left()
        live.update(
            track.task,
            completed=track.done,
            total=track.total,
            detail=escape(
                f"{track.done:g}/{track.total:g} {track.unit}".rstrip()
                + (f" · {track.rate():.3g}/s" if track.rate() else "")
                + (f" · {duration(left)} left" if left is not None else "")
            ),
        )

    def _bars(self) -> Progress:
        if self._live is None:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), TextColumn("{task.fields[detail]}"))
            self._live = Progress(*columns, console=self._console, transient=True)
            self._live.start()
        return self._live

    def _say(self, track: Track) -> None:
        now = self._clock()
        if track.done < track.total and now - track.spoken >= self._every:
            track.spoken = now
            self._console.print(Text(track.line()), soft_wrap=True)

    def _finish(self, track: Track) -> None:
        if track.task is not None and self._live is not None:
            self._live.remove_task(track.task)
            if not self._live.tasks:
                self._live.stop()
                self._live = None
        if track.elapsed >= _SHOW_AFTER:
            self._console.print(Text(track.line()), soft_wrap=True)
        self._tracks.pop(track.name, None)
