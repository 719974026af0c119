"""Metrics for TensorBoard, written with TensorBoard's own file writer: no torch, no TensorFlow.

Imported by name when a run starts, because TensorBoard's own import takes half a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

__all__ = ["TensorBoardSink"]


class TensorBoardSink:
    """Writes `metric` events as scalars tagged `stage/name`; the file is made with the first one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def handle(self, event: dict[str, Any]) -> None:
        """Write a metric; everything else passes by."""
        if event["kind"] != "metric":
            return
        if self._writer is None:
            self._writer = EventFileWriter(str(self._folder))
        tag = "/".join(str(part) for part in (event.get("stage"), event["name"]) if part)
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=float(event["value"]))])
        self._writer.add_event(Event(wall_time=event["time"], step=int(event["step"]), summary=summary))

    def close(self) -> None:
        """Flush and close the file, if there is one."""
        if self._writer is not None:
            self._writer.close()
