"""What a user sees while rung works: progress, log lines, TensorBoard files."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rung.app.logging import LogSettings, LogSink
from rung.app.progress import ProgressSink, duration
from rung.app.tensorboard import TensorBoardSink
from rung.base.errors import StorageError
from rung.base.events import Events
from rung.base.secrets import redact


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def a_console(terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=120), file


def ticks(terminal: bool, times: list[tuple[float, float]], total: float = 100) -> str:
    console, file = a_console(terminal)
    clock = Clock()
    sink = ProgressSink(console, every=5.0, clock=clock)
    events = Events([sink], run="r", stage="bootstrap")
    for now, done in times:
        clock.now = now
        events.progress("responses", done, total, "records")
        if terminal:
            time.sleep(0.12)  # bars are drawn ten times a second
    sink.close()
    return file.getvalue()


def test_plain_lines_come_at_most_every_few_seconds_with_rate_and_time_left() -> None:
    lines = ticks(False, [(t / 10, t / 10) for t in range(300)]).splitlines()
    assert 4 <= len(lines) <= 6
    assert "bootstrap · responses" in lines[0]
    assert "1 records/s" in lines[0]
    assert "95 s left" not in lines[0]
    assert "1 min 35 s left" in lines[0]


def test_work_under_two_seconds_says_nothing_and_longer_work_ends_with_a_line() -> None:
    assert ticks(False, [(0, 0), (1.5, 100)]) == ""
    assert "100/100 records" in ticks(False, [(0, 0), (2.5, 100)])
    assert "done in" in ticks(False, [(0, 0), (2.5, 100)])


def test_a_resumed_piece_is_not_taken_for_a_fast_one() -> None:
    """300 of 400 were there before; the rate is what this process did: one a second, not 300."""
    lines = ticks(False, [(0, 300), (3, 303), (6, 306)], total=400).splitlines()
    assert "1 records/s" in lines[0]
    assert "1 min 34 s left" in lines[0]


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    shown = ticks(True, [(0, 0), (3, 30), (6, 60), (9, 100)])
    assert "bootstrap · responses" in shown
    assert "s left" in shown
    assert "done in 9 s" in shown


def test_names_from_outside_cannot_break_the_markup() -> None:
    console, file = a_console()
    clock = Clock()
    sink = ProgressSink(console, every=1.0, clock=clock)
    for now in (0, 2, 4):
        clock.now = now
        sink.handle({"kind": "progress", "name": "[/red] odd [bold]", "done": now, "total": 9})
    assert "[/red] odd [bold]" in file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (4020, "1 h 07 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_log_lines_carry_run_and_stage_to_terminal_and_file(tmp_path: Path) -> None:
    console, file = a_console()
    sink = LogSink(LogSettings(file=tmp_path / "sub" / "log.jsonl"), console)
    events = Events([sink], run="demo", stage="sft")
    events.log("hello", answer=42, event="clash")
    events.log("quiet", level="debug")
    events.degraded("bitsandbytes", "plain LoRA")
    events.metric("loss", 1.0, 1)
    sink.close()
    lines = [json.loads(line) for line in (tmp_path / "sub" / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["hello", "degraded: bitsandbytes: plain LoRA"]
    assert lines[0]["run"] == "demo"
    assert lines[0]["stage"] == "sft"
    assert lines[0]["answer"] == 42
    assert lines[1]["level"] == "warning"
    shown = file.getvalue()
    assert "hello" in shown
    assert "demo" in shown
    assert "quiet" not in shown


def test_level_and_target_are_chosen() -> None:
    console, file = a_console()
    sink = LogSink(LogSettings(level="debug"), console)
    events = Events([sink])
    with events.span("work"):
        pass
    assert "work took" in file.getvalue()
    console, file = a_console()
    Events([LogSink(LogSettings(level="error"), console)]).log("no")
    Events([LogSink(LogSettings(terminal=False), console)]).log("no", level="error")
    assert file.getvalue() == ""


def test_a_log_file_that_cannot_be_made_is_a_named_ending(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="log file"):
        LogSink(LogSettings(file=tmp_path / "file" / "log.jsonl"), a_console()[0])


def test_secrets_never_reach_a_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-very-secret")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    console, file = a_console()
    sink = LogSink(LogSettings(file=tmp_path / "log"), console)
    Events([sink]).log("sent sk-very-secret", header="Bearer sk-very-secret")
    sink.close()
    assert "sk-very-secret" not in file.getvalue() + (tmp_path / "log").read_text()
    assert "[secret]" in file.getvalue()
    assert redact("abc") == "abc"


def test_tensorboard_reads_the_metrics_back(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path / "tb")
    events = Events([sink], stage="sft")
    events.log("no file for this")
    assert not (tmp_path / "tb").exists()
    for step in range(3):
        events.metric("loss", 3.0 - step, step)
    sink.close()
    found = EventAccumulator(str(tmp_path / "tb"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("sft/loss")] == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_tensorboard_is_written_without_torch() -> None:
    code = "import sys, rung.app.tensorboard; assert not {'torch', 'tensorflow'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
