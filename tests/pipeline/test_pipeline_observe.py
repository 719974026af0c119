"""What a run leaves for those who watch it: its trace, its status, its samples, its warnings."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kept_events import Kept
from rung.base import trace
from rung.base.events import Events
from rung.pipeline import attempt
from rung.pipeline.lock import holder, locked
from rung.pipeline.monitor import Monitor, read_status
from rung.pipeline.readings import Readings, cpu_percent, read
from rung.pipeline.spans import FILE_NAME, SpanFile, read_spans

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"(process|device|engine|hosted|serve)/[a-z_]+")


@pytest.fixture(autouse=True)
def outside_of_any_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be traced."""
    monkeypatch.delenv("TRACEPARENT", raising=False)


def test_one_trace_spans_run_stages_and_shards_with_parent_links(bench: Any) -> None:
    assert bench.go().exit_code == 0
    spans = read_spans(bench.folder)
    assert len({span.trace_id for span in spans}) == 1
    by_id = {span.span_id: span for span in spans}
    run = next(span for span in spans if span.name == "run")
    stages = [span for span in spans if span.name == "stage"]
    shards = [span for span in spans if span.name == "shard"]
    assert [span.attributes["stage"] for span in stages] == ["made", "copy", "steps"]
    assert {span.parent_id for span in stages} == {run.span_id}
    made = [span for span in shards if by_id[span.parent_id].attributes["stage"] == "made"]
    assert [int(span.attributes["shard"]) for span in made] == [0, 1, 2]
    assert run.seconds >= sum(span.seconds for span in stages)
    bench.go()
    assert len({span.trace_id for span in read_spans(bench.folder)}) == 2


@pytest.mark.parametrize("way", ["the environment", "the job"])
def test_worker_processes_are_in_the_same_trace(bench: Any, monkeypatch: Any, way: str) -> None:
    if way == "the job":
        # a worker on another machine does not inherit the environment
        monkeypatch.setattr(trace, "exported", lambda span: contextlib.nullcontext())
    else:
        monkeypatch.setattr(attempt.trace, "carrier", dict)
    result = bench.go("executor.workers=2", worker_models="pipeline_toys:FakeModels")
    assert result.exit_code == 0, result.error
    spans = read_spans(bench.folder)
    assert len({span.trace_id for span in spans}) == 1
    stage = next(span for span in spans if span.attributes.get("stage") == "made" and span.name == "stage")
    shards = [span for span in spans if span.name == "shard" and span.parent_id == stage.span_id]
    assert sorted(int(span.attributes["shard"]) for span in shards) == [0, 1, 2]
    assert {span.attributes["worker"] for span in shards} <= {"0", "1"}


def test_a_failed_piece_is_marked(bench: Any) -> None:
    assert bench.go("made.fail_shards=[1]").exit_code != 0
    failed = [span for span in read_spans(bench.folder) if span.failed]
    assert {span.name for span in failed} == {"shard", "stage", "run"}


def test_a_span_is_written_as_opentelemetry_writes_it(tmp_path: Path) -> None:
    with Events([SpanFile(tmp_path)], run="r").span("shard", shard=3, share=0.5, warm=True, note="é"):
        pass
    line = json.loads((tmp_path / FILE_NAME).read_text())
    span = line["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert re.fullmatch("[0-9a-f]{32}", span["traceId"])
    assert re.fullmatch("[0-9a-f]{16}", span["spanId"])
    assert (span["kind"], span["status"]) == (1, {"code": 1})
    assert int(span["endTimeUnixNano"]) >= int(span["startTimeUnixNano"]) > 1e18
    values = {row["key"]: row["value"] for row in span["attributes"]}
    assert values == {
        "rung.run": {"stringValue": "r"}, "rung.shard": {"intValue": "3"}, "rung.share": {"doubleValue": 0.5},
        "rung.warm": {"boolValue": True}, "rung.note": {"stringValue": "é"},
    }  # fmt: skip


def test_torn_and_foreign_lines_of_a_trace_are_left_out(tmp_path: Path) -> None:
    with Events([SpanFile(tmp_path)]).span("a"):
        pass
    path = tmp_path / FILE_NAME
    path.write_text(path.read_text() + '[]\n{"resourceSpans": [{}]}\n' + path.read_text()[:50])
    with Events([SpanFile(tmp_path)]).span("b"):
        pass
    assert [span.name for span in read_spans(tmp_path)] == ["a", "b"]
    assert read_spans(tmp_path / "nowhere") == []


def watched(folder: Path) -> tuple[Monitor, Kept]:
    kept = Kept()
    return Monitor(folder, Events([kept], run="r"), "r"), kept


def tick(monitor: Monitor, now: float, kind: str, **fields: Any) -> None:
    monitor.handle({"kind": kind, "time": 1000.0 + now, "run": "r", "stage": "s", **fields})


def test_the_status_says_what_runs_how_far_and_what_was_warned(tmp_path: Path) -> None:
    monitor, _ = watched(tmp_path)
    tick(monitor, 0, "progress", name="answers", done=10, total=100, unit="records")
    tick(monitor, 5, "progress", name="answers", done=20, total=100, unit="records")
    tick(monitor, 6, "log", message="hm", level="warning")
    status = read_status(tmp_path)
    assert status is not None
    assert (status.stage, status.ended, status.process) == ("s", False, os.getpid())
    assert status.tracks[0].points == ((1000.0, 10.0), (1005.0, 20.0))
    assert status.warnings[0].message == "hm"
    tick(monitor, 8, "progress", name="answers", done=100, total=100)
    status = read_status(tmp_path)
    assert status is not None
    assert status.tracks == ()
    monitor.close()
    ended = read_status(tmp_path)
    assert ended is not None
    assert ended.ended
    (tmp_path / "status.json").write_text("{")
    assert read_status(tmp_path) is None


def test_the_status_is_not_written_more_than_once_a_second(tmp_path: Path) -> None:
    monitor, _ = watched(tmp_path)
    tick(monitor, 0, "log", message="a", level="info")
    (tmp_path / "status.json").unlink()
    tick(monitor, 0.5, "log", message="b", level="info")
    assert not (tmp_path / "status.json").exists()
    tick(monitor, 1.1, "log", message="c", level="info")
    assert (tmp_path / "status.json").exists()


def speeds(tmp_path: Path, values: list[float]) -> list[str]:
    monitor, kept = watched(tmp_path)
    for step, value in enumerate(values):
        tick(monitor, step / 10, "metric", name="engine/tokens_per_second", value=value, step=step)
    return [event["message"] for event in kept.events if event["kind"] == "log"]


def test_a_lasting_drop_of_speed_is_warned_of_once(tmp_path: Path) -> None:
    said = speeds(tmp_path, [100.0] * 10 + [40.0] * 20)
    assert said == ["engine/tokens_per_second fell to 40 and stays there; it was 100"]
    status = read_status(tmp_path)
    assert status is not None
    assert len(speeds(tmp_path, [100.0] * 9 + [40.0] * 9 + [100.0] * 9 + [40.0] * 9)) == 2


@pytest.mark.parametrize(
    "values",
    [[100.0] * 10 + [40.0] * 4 + [100.0] * 5, [100.0] * 10 + [60.0] * 30, [40.0] * 30, [100.0, 1.0] * 20],
    ids=["a dip", "above half", "always slow", "every other step"],
)
def test_what_does_not_last_is_not_warned_of(tmp_path: Path, values: list[float]) -> None:
    assert speeds(tmp_path, values) == []


def test_memory_and_processor_are_sampled_over_time(tmp_path: Path) -> None:
    monitor, kept = watched(tmp_path)
    for now in range(0, 35, 5):
        tick(monitor, now, "log", message="a", level="info")
    names = [event["name"] for event in kept.events if event["kind"] == "metric"]
    assert names.count("process/resident_bytes") == 4
    assert names.count("process/cpu_percent") == 3
    assert all(event["value"] >= 0 for event in kept.events if event["kind"] == "metric")


def test_readings_cover_children_and_invent_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        both, alone = read(os.getpid()), read(child.pid)
    finally:
        child.communicate(b"\n")
    assert both.num_processes >= 2
    assert both.resident_bytes is not None
    assert alone.resident_bytes is not None
    assert both.resident_bytes > alone.resident_bytes > 0
    nothing = read(1, proc=tmp_path)
    assert (nothing.resident_bytes, nothing.cpu_seconds, nothing.num_processes) == (None, None, 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (read(os.getpid()).device_used, read(os.getpid()).note) == (None, "no accelerator here")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '50, 1024'\necho '100, 1024'\n")
    tool.chmod(0o755)
    assert (read(os.getpid()).device_used, read(os.getpid()).device_bytes) == (0.75, 2 << 30)
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert read(os.getpid()).device_used is None
    assert "CalledProcessError" in read(os.getpid()).note


def test_processor_use_is_unknown_rather_than_wrong() -> None:
    assert cpu_percent(Readings(cpu_seconds=1.0), Readings(cpu_seconds=2.0), 2.0) == 50.0
    assert cpu_percent(Readings(), Readings(cpu_seconds=2.0), 2.0) is None
    assert cpu_percent(Readings(cpu_seconds=2.0), Readings(cpu_seconds=1.0), 2.0) is None


def test_who_holds_a_run_is_seen_without_touching_it(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    with locked(tmp_path):
        assert holder(tmp_path) == os.getpid()
    assert holder(tmp_path) is None


def test_every_metric_has_its_documented_name() -> None:
    documented = (ROOT / "docs" / "observability.md").read_text()
    patterns = [
        re.escape(n).replace("<", ".*<").replace(">", ">.*") for n in re.findall(r"^\| `([^`]+)`", documented, re.M)
    ]
    patterns = [re.sub(r"\.\*<[^>]*>\.\*", ".+", pattern) for pattern in patterns]
    missing = []
    for path in sorted((ROOT / "src" / "rung").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "metric":
                name = metric_name(node.args[0])
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
                name = node.value
            else:
                continue
            if name and not any(re.fullmatch(pattern, name) for pattern in patterns):
                missing.append(f"{path.name}:{node.lineno}: {name}")
    assert missing == []


def metric_name(node: ast.expr) -> str:
    """A name as written, with X for what is filled in; empty when all of it is."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in node.values)
    return ""
