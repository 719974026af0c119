"""Watches a run while it works: where it is, what it uses, whether it slows down.

A sink among the others. It keeps `status.json` in the run's folder for `rung status` in another terminal, tells the
other sinks memory and processor use, and warns when a rate of tokens falls and stays low.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rung.base.events import Events, Sink
from rung.base.files import TEMPORARY_SUFFIX, read_json
from rung.base.fingerprint import canonical
from rung.base.settings import Field, Settings
from rung.pipeline.readings import Readings, cpu_percent, read
from rung.pipeline.spans import SpanFile

__all__ = ["STATUS", "Monitor", "Status", "Track", "Warned", "observing", "read_status"]

STATUS = "status.json"
_WRITE_EVERY, _SAMPLE_EVERY, _WINDOW = 1.0, 10.0, 30.0
_NUM_WARNINGS = 10
# A drop counts when this many rates in a row lie under half of the median of those before.
_LASTING, _KEPT, _DROP = 5, 60, 0.5


class Track(Settings):
    """A piece of work under way: where it stood at two moments of the last half minute, the first and the last."""

    name: str
    unit: str
    total: float
    points: tuple[tuple[float, float], tuple[float, float]] = Field(description="(time, done), twice")


class Warned(Settings):
    """A warning or an error."""

    time: float
    stage: str
    message: str


class Status(Settings):
    """What `rung status` shows. Times are seconds since 1970."""

    run: str
    process: int = Field(description="its number on the machine that runs it")
    started: float
    updated: float
    ended: bool = False
    stage: str = ""
    tracks: tuple[Track, ...] = ()
    rates: dict[str, float] = Field(default_factory=dict, description="last value of each rate of tokens")
    warnings: tuple[Warned, ...] = ()


@dataclass
class _Speed:
    """A rate over time; `low` counts the values in a row that lie far under those before."""

    kept: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    low: int = 0
    warned: bool = False

    def add(self, value: float) -> float | None:
        """Take a value; the usual rate, when it has just been low for long enough to say so."""
        usual = median(self.kept) if len(self.kept) >= _LASTING else None
        if usual is None or value >= _DROP * usual:
            self.kept.append(value)
            self.low, self.warned = 0, False
            return None
        self.low += 1
        if self.low < _LASTING or self.warned:
            return None
        self.warned = True
        return usual


class Monitor:
    """The sink.

    Args:
        folder: of the run.
        events: leads to the other sinks.
        run: its name.
    """

    def __init__(self, folder: Path, events: Events, run: str) -> None:
        self._path, self._events, self._run = folder / STATUS, events, run
        self._tracks: dict[tuple[str, str], deque[tuple[float, float]]] = {}
        self._units: dict[tuple[str, str], tuple[str, float]] = {}
        self._speeds: dict[str, _Speed] = {}
        self._rates: dict[str, float] = {}
        self._warnings: deque[Warned] = deque(maxlen=_NUM_WARNINGS)
        self._stage, self._started, self._written, self._sampled = "", 0.0, 0.0, 0.0
        self._num_samples, self._before = 0, Readings()

    def handle(self, event: dict[str, Any]) -> None:
        """Take one event, and look at the clock."""
        now = float(event["time"])
        self._started = self._started or now
        if "stage" in event:
            self._stage = str(event["stage"])
        if event["kind"] == "progress":
            self._progress(event, now)
        elif event["kind"] == "metric" and str(event["name"]).endswith("tokens_per_second"):
            self._speed(str(event["name"]), float(event["value"]), now)
        elif event.get("level") in ("warning", "error"):
            self._warnings.append(Warned(time=now, stage=self._stage, message=str(event["message"])))
            self._written = 0.0
        if now - self._sampled >= _SAMPLE_EVERY:
            self._sample(now)
        if now - self._written >= _WRITE_EVERY:
            self._write(now)

    def close(self) -> None:
        """Say that the run has ended."""
        self._tracks.clear()
        self._write(max(self._written, self._sampled, self._started), ended=True)

    def _progress(self, event: dict[str, Any], now: float) -> None:
        key = (str(event.get("stage", "")), str(event["name"]))
        if event["done"] >= event["total"]:
            self._tracks.pop(key, None)
            return
        points = self._tracks.setdefault(key, deque())
        points.append((now, float(event["done"])))
        while len(points) > 2 and now - points[0][0] > _WINDOW:
            points.popleft()
        self._units[key] = (str(event.get("unit", "")), float(event["total"]))

    def _speed(self, name: str, value: float, now: float) -> None:
        self._rates[name] = value
        usual = self._speeds.setdefault(name, _Speed()).add(value)
        if usual is not None:
            text = f"{name} fell to {value:.4g} and stays there; it was {usual:.4g}"
            self._warnings.append(Warned(time=now, stage=self._stage, message=text))
            self._events.log(text, level="warning", stage=self._stage)

    def _sample(self, now: float) -> None:
        """Memory and processor of this process and its workers, and of the device where there is one."""
        readings, seconds = read(os.getpid()), now - self._sampled
        figures = {
            "process/resident_bytes": readings.resident_bytes,
            "process/cpu_percent": cpu_percent(self._before, readings, seconds) if self._sampled else None,
            "device/used": readings.device_used,
            "device/resident_bytes": readings.device_bytes,
        }
        self._before, self._sampled = readings, now
        self._num_samples += 1
        for name, value in figures.items():
            if value is not None:
                self._events.metric(name, value, self._num_samples)

    def _write(self, now: float, ended: bool = False) -> None:
        """Whole, but not flushed to disk: what a power cut takes of it, nobody misses. Nor does a run end because this
        file cannot be written; where the disk is full, the next shard says so."""
        status = Status(
            run=self._run,
            process=os.getpid(),
            started=self._started,
            updated=now,
            ended=ended,
            stage=self._stage,
            tracks=tuple(
                Track(name=key[1], unit=self._units[key][0], total=self._units[key][1], points=(points[0], points[-1]))
                for key, points in self._tracks.items()
            ),
            rates=self._rates,
            warnings=tuple(self._warnings),
        )
        temporary = self._path.with_name(STATUS + TEMPORARY_SUFFIX)
        with contextlib.suppress(OSError):
            temporary.write_text(canonical(status), encoding="utf-8")
            temporary.replace(self._path)
        self._written = now


@contextlib.contextmanager
def observing(folder: Path, sinks: Sequence[Sink], run: str) -> Iterator[tuple[Sink, ...]]:
    """All sinks of a run: those given, the trace's file and the monitor; the block is the trace's first span."""
    told = (*sinks, SpanFile(folder))
    monitor = Monitor(folder, Events(told, run=run), run)
    try:
        with Events(told, run=run).span("run", export=True):
            yield (*told, monitor)
    finally:
        monitor.close()


def read_status(folder: Path) -> Status | None:
    """The status that the last run in `folder` left; None when there is none that can be read."""
    try:
        return Status.model_validate(read_json(folder / STATUS))
    except (OSError, ValueError):
        return None
