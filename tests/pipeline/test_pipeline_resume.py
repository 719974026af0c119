"""Interrupted = uninterrupted: kills at every height, signals, and a disk that refuses."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rung.pipeline.attempt
from rung.base.errors import DataError
from rung.base.events import Events
from rung.base.fingerprint import hash_file
from rung.pipeline.interrupt import StopRequest
from rung.pipeline.ledger import Ledger
from rung.pipeline.outputs import StageOutputs, begun_identity
from rung.records.manifest import open_manifest
from rung.records.types import Drop

SCRIPT = """
import os, sys
from pathlib import Path
from pipeline_toys import CLEAN, FakeModels, stall
import rung.pipeline.attempt as attempt
from rung.pipeline.recipe import load
from rung.pipeline.runner import Options, run

seal, write, end = attempt.Entry, attempt.write_manifest, attempt._record_end

def write_and_stall(*arguments):
    stall("manifest", 0)
    write(*arguments)
    stall("manifest", 1)

def end_and_stall(*arguments, **named):
    end(*arguments, **named)
    stall("manifest", 2)

attempt.write_manifest, attempt._record_end = write_and_stall, end_and_stall
result = run(load(Path(sys.argv[1])), Path(sys.argv[2]), FakeModels(), Options(code=CLEAN))
print(result.error or "done")
sys.exit(result.exit_code)
"""


def start(bench: Any, stall: str = "") -> subprocess.Popen[str]:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1] / "src")])}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(bench.path), str(bench.runs)],
        env={**environment, "TOY_STALL": stall},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def whole(folder: Path) -> dict[str, str]:
    """Hash of every record and result file of a run, and nothing else lies there."""
    ours = {"ledger.jsonl", "events.jsonl", "recipe.json", ".lock", "manifest.json", "trace.jsonl", "status.json"}
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in ours]
    return {p.relative_to(folder).as_posix(): hash_file(p) for p in files}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: Any, bench_at: Any) -> dict[str, str]:
    """What a run that nobody disturbs leaves."""
    bench = bench_at(tmp_path_factory.mktemp("reference"))
    assert bench.go().exit_code == 0
    return whole(bench.folder)


@pytest.mark.parametrize(
    "place",
    [
        "before:0",
        "between:1",
        "before:2",
        "step:0",
        "step:7",
        "written:0",
        "figures:0",
        *(f"manifest:{i}" for i in range(3)),
    ],
)
def test_killed_and_resumed_is_the_same_to_the_byte(bench: Any, reference: dict[str, str], place: str) -> None:
    killed = start(bench, f"kill:{place}")
    assert killed.wait(60) == -signal.SIGKILL
    result = bench.go()
    assert result.exit_code == 0, result.error
    assert whole(bench.folder) == reference
    ended = [e.attempt for e in Ledger(bench.folder).entries() if e.event == "ended"]
    assert len(ended) == len(set(ended))  # no attempt is paid for twice
    assert [s.outcome for s in bench.go().stages] == ["skipped"] * 3


def test_work_that_was_finished_before_a_kill_is_not_done_again(bench: Any) -> None:
    start(bench, "kill:before:2").wait(60)
    stamps = {p.name: p.stat().st_mtime_ns for p in (bench.folder / "made").glob("records-*")}
    assert len(stamps) == 2
    bench.go()
    assert {n: (bench.folder / "made" / n).stat().st_mtime_ns for n in stamps} == stamps
    assert "shard 1 of 'records' is finished, skipped" in (bench.folder / "events.jsonl").read_text()
    assert Ledger(bench.folder).entries()[1].outcome == "killed"
    assert Ledger(bench.folder).spent("made").tokens >= 10


def test_kills_at_random_moments_leave_nothing_that_a_resume_does_not_mend(
    bench: Any, reference: dict[str, str]
) -> None:
    for delay in (0.25, 0.3, 0.35, 0.4):
        running = start(bench)
        time.sleep(delay)
        running.kill()
        running.wait(60)
    assert bench.go().exit_code == 0
    assert whole(bench.folder) == reference


def test_sigterm_stops_at_a_safe_point_and_says_how_to_go_on(bench: Any, reference: dict[str, str]) -> None:
    stopped = start(bench, "term:step:3")
    out, err = stopped.communicate(timeout=60)
    assert stopped.returncode == 75
    assert "stopping at the next safe point" in err
    assert "run the same command again" in out
    assert Ledger(bench.folder).entries()[-1].outcome == "interrupted"
    assert bench.go().exit_code == 0
    assert whole(bench.folder) == reference


def test_the_second_signal_ends_the_process() -> None:
    code = (
        "import os, signal, sys\nfrom rung.pipeline.interrupt import StopRequest\n"
        "with StopRequest() as stop:\n"
        " os.kill(os.getpid(), signal.SIGINT); assert stop.requested()\n"
        " os.kill(os.getpid(), signal.SIGINT); print('alive')\n"
    )
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGINT
    assert "alive" not in done.stdout


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(tell=lambda text: None):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stop_between_stages_is_heard(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(rung.pipeline.attempt, "take_finished", None)
    monkeypatch.setattr("pipeline_toys.Make.figures", lambda *a: os.kill(os.getpid(), signal.SIGTERM) or {"total": 12})
    result = bench.go()
    assert [s.outcome for s in result.stages] == ["done", "interrupted", "not_started"]
    assert result.exit_code == 75


@pytest.mark.parametrize("changed", ["made.temperature=0.9", "seed=5"])
def test_going_on_with_other_settings_is_refused_with_the_difference(bench: Any, changed: str) -> None:
    start(bench, "kill:between:1").wait(60)
    result = bench.go(changed)
    assert result.exit_code == 6
    assert ("settings.temperature: 0.5 -> 0.9" if "temp" in changed else "seed") in str(result.error)
    assert bench.go(changed, rebuild=["made"]).exit_code == 0


def test_a_shard_that_was_altered_or_torn_is_not_taken_for_finished(bench: Any, reference: dict[str, str]) -> None:
    start(bench, "kill:before:2").wait(60)
    torn = bench.folder / "made" / "records-0000.jsonl.zst"
    torn.write_bytes(torn.read_bytes()[:20])
    (bench.folder / "made" / ".work" / "journal" / "records" / "0001.json").write_text('{"name": ')
    assert bench.go().exit_code == 0
    assert whole(bench.folder) == reference
    assert "does not hash to what was recorded" in (bench.folder / "events.jsonl").read_text()


def test_an_attempt_reads_back_what_an_earlier_one_finished(bench: Any) -> None:
    start(bench, "kill:before:1").wait(60)
    made = bench.folder / "made"
    outputs = StageOutputs(made, {"records": "instruction", "drops": "drop"}, Events(), "made")
    outputs.begin(begun_identity(made), 2)
    assert outputs.finished("records") == [0]
    assert [r.id for r in outputs.shard_records("records", 0)] == ["0-0", "0-1", "0-2", "0-3"]
    assert outputs.records("records") == outputs.shard_records("records", 0)
    assert outputs.notes["calibration"] == {"critic": {"auc": 0.9}}
    for wrong in (lambda: outputs.shard_records("records", 1), lambda: outputs.finished("recrods")):
        with pytest.raises(DataError):
            wrong()
    outputs.shard("records", 1, [])
    with pytest.raises(DataError, match="written twice"):
        outputs.shard("records", 1, [])
    for name in ("../x", "/x", "manifest.json", ".work/x", "a/../../x", "records-0000.jsonl.zst"):
        with pytest.raises(DataError, match="cannot write a file"):
            outputs.file(name, "text")
    outputs.file("never.txt", "text")
    with pytest.raises(DataError, match="announced and never written"):
        outputs.close()


def test_files_published_before_a_kill_are_staged_again(tmp_path: Path) -> None:
    def begun() -> StageOutputs:
        outputs = StageOutputs(tmp_path / "s", {}, Events(), "s")
        outputs.begin("{}", 1)
        return outputs

    first = begun()
    first.file("weights/a.txt", "weights").write_text("a")
    first.close()
    assert (tmp_path / "s" / "weights" / "a.txt").is_file()
    second = begun()
    assert not (tmp_path / "s" / "weights" / "a.txt").exists()
    assert second.file("weights/a.txt", "weights").read_text() == "a"


def test_work_that_comes_out_different_is_visible(bench: Any, monkeypatch: Any) -> None:
    start(bench, "kill:before:1").wait(60)
    (bench.folder / "made" / ".work" / "journal" / "records" / "0000.json").unlink()
    dropped = [Drop("x", "x", "p", "another reason")]
    real = StageOutputs.shard
    monkeypatch.setattr(
        StageOutputs,
        "shard",
        lambda self, output, index, rows: real(self, output, index, dropped if output == "drops" else rows),
    )
    assert bench.go().exit_code == 0
    degraded = open_manifest(bench.folder / "made").manifest.degraded
    assert [row["what"] for row in degraded] == ["shard drops-0000.jsonl.zst"]


@pytest.mark.parametrize("number", [0, 1, 3, 5, 8, 12, 20])
def test_a_full_disk_is_a_named_ending_and_nothing_is_half_written(
    bench: Any, reference: dict[str, str], monkeypatch: Any, number: int
) -> None:
    calls, real = iter(range(10**6)), Path.write_bytes

    def refuse(path: Path, data: bytes) -> int:
        if next(calls) >= number:
            real(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", refuse)
        result = bench.go()
    assert (result.exit_code, result.outcome) == (74, "storage")
    assert "No space left" in str(result.error)
    assert not list(bench.runs.rglob("*.partial"))
    assert bench.go().exit_code == 0
    assert whole(bench.folder) == reference


def test_a_refusal_outside_our_own_writers_is_named_too(bench: Any, monkeypatch: Any) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pipeline_toys.Copy.run", refuse)
    result = bench.go()
    assert (result.exit_code, result.outcome) == (74, "storage")
    assert [stage.outcome for stage in result.stages] == ["done", "storage", "not_started"]
    assert Ledger(bench.folder).entries()[-1].outcome == "storage"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk(bench: Any, small_disk: Path) -> None:
    bench.runs = small_disk
    sets = ("made.count=300", "made.shards=20")
    result = bench.go(*sets)
    assert (result.exit_code, result.outcome) == (74, "storage")
    assert not (bench.folder / "made" / "manifest.json").exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert bench.go(*sets).exit_code == 0
