"""A run seen from outside: `rung status`, and the trace as a picture in the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from rung.app.cli import execute
from rung.app.reports.timeline import last_trace, rows, timeline
from rung.base.events import Events
from rung.pipeline.lock import locked
from rung.pipeline.monitor import Monitor
from rung.pipeline.spans import Span, SpanFile

SLOW = '''"""A stage that waits until it is told to go on."""

import time
from pathlib import Path

from rung.base.settings import Settings
from rung.pipeline.stage import Stage


class Slow(Stage):
    """Waits."""

    class Settings(Settings):
        """None."""

    outputs = {"records": "instruction"}
    uses_model = False

    def run(self, context, inputs, outputs):
        """Wait for the file `go`."""
        context.events.log("it is warm in here", level="warning")
        context.events.progress("waiting", 1, 4, "steps")
        time.sleep(1.1)
        context.events.progress("waiting", 2, 4, "steps")
        Path("waits").touch()
        while not Path("go").exists():
            time.sleep(0.02)
'''


def a_span(name: str, number: int, parent: int = 0, start: float = 0.0, **fields: Any) -> Span:
    values = {"seconds": 1.0, "failed": False, "trace_id": "t", "attributes": {}, **fields}
    return Span(span_id=str(number), parent_id=str(parent) if parent else "", name=name, start=start, **values)


TRACE = [
    a_span("run", 1, seconds=10.0),
    a_span("stage", 2, 1, seconds=6.0, attributes={"stage": "pilot"}),
    a_span("shard", 3, 2, 0.5, attributes={"worker": "0", "shard": "0"}),
    a_span("shard", 4, 2, 0.6, attributes={"worker": "1", "shard": "1"}, failed=True),
    a_span("shard", 5, 2, 2.0, attributes={"worker": "0", "shard": "2"}),
    a_span("stage", 6, 1, 6.5, seconds=3.0, attributes={"stage": "<sft>"}),
    a_span("shard", 7, 6, 7.0, attributes={"shard": "0"}),
]


def test_rows_are_stages_with_their_workers_below() -> None:
    found = [(row.name, row.depth, len(row.spans)) for row in rows(TRACE)]
    assert found == [
        ("run", 0, 1), ("pilot", 1, 1), ("worker 0", 2, 2), ("worker 1", 2, 1), ("<sft>", 1, 1), ("shards", 2, 1),
    ]  # fmt: skip
    assert [row.name for row in rows(list(reversed(TRACE)))] == [row[0] for row in found]


def test_the_picture_is_whole_svg_with_a_bar_for_each_piece() -> None:
    picture = timeline(TRACE)
    tree = ElementTree.fromstring(picture)
    bars = tree.findall("rect")
    assert len(bars) == len(TRACE)
    assert [bar.get("class") for bar in bars].count("fill failed") == 1
    titles = [bar.findtext("title") for bar in bars]
    assert "worker 1 1: 1 s, failed" in titles
    assert "&lt;sft&gt;" in picture
    assert timeline([]) == ""


def test_a_trace_that_names_itself_as_parent_or_lacks_parents_is_still_drawn() -> None:
    lost = [a_span("shard", 9, 77), a_span("a", 10, 11), a_span("b", 11, 10), a_span("c", 12, 12)]
    assert [row.name for row in rows(lost)] == ["shards"]
    deep = [a_span("x", number + 1, number) for number in range(3000)]
    assert len(rows(deep)) < 10


def test_the_last_run_that_worked_is_drawn() -> None:
    idle = a_span("run", 20, trace_id="u")
    assert last_trace([*TRACE, idle]) == TRACE
    assert last_trace([idle]) == [idle]
    assert last_trace([]) == []


def test_the_report_shows_the_trace(demo_runs: Path) -> None:
    assert execute(["report", "demo", "--runs", str(demo_runs)]) == 0
    page = demo_runs / "demo" / "report.html"
    assert 'id="trace"' not in page.read_text()
    events = Events([SpanFile(demo_runs / "demo")], run="demo")
    with events.span("run"), events.bind(stage="bootstrap").span("stage"):
        pass
    assert execute(["report", "demo", "--runs", str(demo_runs)]) == 0
    assert '<svg class="trace"' in page.read_text()
    assert '<a href="#trace">' in page.read_text()


def test_a_running_job_is_seen_from_another_terminal(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow_stage.py").write_text(SLOW)
    (tmp_path / "r.yaml").write_text("run: slow\nstages:\n  - slow_stage:Slow: {name: waits}\n")
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2] / 'src'}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-m", "rung", "run", "r.yaml", "--allow-dirty", "--quiet"]
    job = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "waits").exists() and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        before = {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()}
        assert execute(["status", "slow"]) == 0
        assert {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()} == before
    finally:
        (tmp_path / "go").touch()
        job.communicate(timeout=60)
    said = capsys.readouterr().out
    assert f"process {job.pid} works on waits" in said
    assert "waiting 2/4 steps" in said
    assert " left" in said
    assert "GiB in 1 process" in said
    assert "% of one core" in said
    assert "accelerator" in said or "device" in said
    assert "waits: it is warm in here" in said
    assert execute(["status", "slow"]) == 0
    after = capsys.readouterr().out
    assert "nobody works on it now" in after
    assert "done" in after


def test_the_status_of_a_run_that_died_or_never_spoke(demo_runs: Path, capsys: Any) -> None:
    folder = demo_runs / "demo"
    monitor = Monitor(folder, Events(), "demo")
    monitor.handle({"kind": "progress", "time": 1.0, "stage": "sft", "name": "steps", "done": 1, "total": 9})
    assert execute(["status", "demo", "--runs", str(demo_runs)]) == 0
    said = capsys.readouterr().out
    assert "nobody works on it now" in said
    assert "steps 1/9" not in said
    (folder / "status.json").unlink()
    with locked(folder):
        assert execute(["status", "demo", "--runs", str(demo_runs)]) == 0
    assert "has said nothing yet" in capsys.readouterr().out
    assert execute(["status", "demon", "--runs", str(demo_runs)]) == 3


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"stages": [{}]})])
def test_a_broken_recipe_file_does_not_hide_the_rest(demo_runs: Path, capsys: Any, text: str) -> None:
    (demo_runs / "demo" / "recipe.json").write_text(text)
    assert execute(["status", "demo", "--runs", str(demo_runs)]) == 0
    assert "bootstrap" in capsys.readouterr().out
