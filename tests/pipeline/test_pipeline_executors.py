"""Shards by whoever makes them: the same data in turn, by processes, split up and on Ray; and what workers do wrong."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_toys import FakeModels
from pipeline_script import ScriptedModels
from pipeline_toys import CLEAN
from scripted_worker import open_scripted

from rung.base.errors import DataError, Drift, MissingDependency, SettingsError
from rung.base.events import Events
from rung.base.files import read_json
from rung.base.fingerprint import hash_file
from rung.pipeline.budget import Budget, BudgetSettings, Spend
from rung.pipeline.executors._purse import Purse
from rung.pipeline.executors._worker import Worker, _Dismissed, _Handed, _WorkerOutputs
from rung.pipeline.executors.local import Local
from rung.pipeline.job import Job, Order, Report
from rung.pipeline.ledger import Ledger
from rung.pipeline.outputs import StageOutputs
from rung.pipeline.recipe import load
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.stage import Shards
from rung.records.manifest import Manifest, open_manifest
from rung.records.shards import write_shard
from rung.records.types import Instruction

HERE = Path(__file__).parent
TWO = ("executor.workers=2", "executor.stop_seconds=10")


class Yard:
    """A folder with a recipe of one stage in shards."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "r.yaml"
        self.write()

    def write(self, extra: str = "", stage: str = "executor_toys:Pieces: {name: made}") -> None:
        """Another recipe."""
        self.path.write_text(f"run: toy\nmodel: fake:m\n{extra}stages:\n  - {stage}\n")

    def go(self, *sets: str, runs: str = "runs", **options: Any) -> RunResult:
        """Run it."""
        chosen = Options(code=CLEAN, worker_models="executor_toys:FakeModels", **options)
        return run(load(self.path, sets=sets), self.folder / runs, FakeModels(), chosen)

    def made(self, runs: str = "runs") -> Path:
        """The stage's folder."""
        return self.folder / runs / "toy" / "made"

    def hashes(self, runs: str = "runs") -> dict[str, str]:
        """Of all shards that are published."""
        return {path.name: hash_file(path) for path in sorted(self.made(runs).glob("*.zst"))}

    def manifest(self, runs: str = "runs") -> Manifest:
        """Of the finished stage."""
        return open_manifest(self.made(runs)).manifest

    def log(self) -> str:
        """All events."""
        return (self.folder / "runs" / "toy" / "events.jsonl").read_text()


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Yard:
    """A fresh one; traces of what workers do lie in its `traces`."""
    (tmp_path / "traces").mkdir()
    monkeypatch.setenv("TOY_TRACES", str(tmp_path / "traces"))
    monkeypatch.delenv("TOY_DEED", raising=False)
    return Yard(tmp_path)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The shards that one process makes."""
    other = Yard(tmp_path_factory.mktemp("reference"))
    with pytest.MonkeyPatch.context() as patched:
        for name in ("TOY_DEED", "TOY_TRACES"):
            patched.delenv(name, raising=False)
        assert other.go().exit_code == 0
    return other.hashes()


def test_workers_make_the_same_shards_as_one_process(
    yard: Yard, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DEED", "meet:step:all")
    result = yard.go(*TWO)
    assert result.exit_code == 0, result.error
    assert yard.hashes() == reference
    loaded = {int(path.name.split("-")[1]) for path in (yard.folder / "traces").glob("loaded-*")}
    assert len(loaded) == 2
    assert os.getpid() not in loaded  # the run's own process never loads a model
    assert yard.manifest().model["precision"] == "float32"
    assert yard.manifest().figures == {"seen": 6}
    assert not (yard.made() / ".work").exists()
    assert yard.go().stages[0].outcome == "skipped"  # one worker or two: the same output


def test_time_of_all_devices_and_time_by_the_clock_are_both_told(yard: Yard) -> None:
    yard.go(*TWO, "budget.price_per_hour=3600")
    spend = yard.manifest().spend
    assert spend["tokens"] == 60
    assert spend["seconds"] > 0
    assert spend["wall_seconds"] > 0
    assert spend["money"] == pytest.approx(spend["seconds"], rel=0.01)


def test_who_makes_it_is_no_part_of_what_it_is(yard: Yard) -> None:
    yard.go()
    before = yard.manifest().fingerprint
    for sets in (TWO, ("executor=ray",), ("executor.threads=3", "executor.workers=7")):
        again = yard.go(*sets)
        assert (again.exit_code, again.stages[0].outcome) == (0, "skipped")
    assert yard.manifest().fingerprint == before


def test_the_recipe_names_the_executor_and_a_typo_is_found_before_any_work(yard: Yard) -> None:
    yard.write("executor: {kind: local, workers: 3}\n")
    assert load(yard.path).executor.num_workers == 3
    assert load(yard.path, sets=["executor.workers=2"]).executor_settings["workers"] == 2
    yard.write("executor: ray\n")
    assert load(yard.path, sets=["executor.workers=4"]).executor_settings["kind"] == "ray"
    for wrong, place in (("{kind: lokal}", "r.yaml:3"), ("{wokers: 2}", "r.yaml:3"), ("{workers: 0}", "r.yaml:3")):
        yard.write(f"executor: {wrong}\n")
        with pytest.raises(SettingsError, match=r"lokal|wokers|workers") as caught:
            load(yard.path)
        assert place in caught.value.place


def test_a_worker_killed_in_a_shard_loses_that_shard_and_nothing_else(
    yard: Yard, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DEED", "kill:between:2:once")
    result = yard.go(*TWO)
    assert result.exit_code == 0, result.error
    assert yard.hashes() == reference
    assert "shard 2 of 'records' failed (was killed by signal 9); it is handed out again" in yard.log()


def test_a_worker_that_hangs_is_killed_and_replaced(
    yard: Yard, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DEED", "hang:step:1:once")
    result = yard.go(*TWO, "executor.hang_seconds=2", "executor.max_attempts=5")
    assert result.exit_code == 0, result.error
    assert yard.hashes() == reference
    assert "gave no sign of life for 2 s and was killed" in yard.log()
    assert yard.manifest().spend["seconds"] >= 2  # a device that hangs is paid for


@pytest.mark.parametrize(("what", "code"), [("kill", 12), ("fail", 7)])
def test_a_poisonous_shard_is_set_aside_with_its_cause_and_the_others_finish(
    yard: Yard, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch, what: str, code: int
) -> None:
    monkeypatch.setenv("TOY_DEED", f"{what}:step:3")
    result = yard.go(*TWO)
    assert result.exit_code == code
    assert "1 of 6 shards failed (shard 3:" in str(result.error)
    assert set(reference) - set(yard.hashes()) == {"drops-0003.jsonl.zst", "records-0003.jsonl.zst"}
    kept = read_json(yard.made() / ".work" / "quarantine" / "records-0003.json")
    assert kept["shard"] == 3
    assert len(kept["causes"]) == 2
    assert ("signal 9" if what == "kill" else "planted in shard 3") in kept["causes"][0]
    assert "shard 3" in Ledger(yard.made().parent).entries()[-1].message
    monkeypatch.delenv("TOY_DEED")
    assert yard.go().exit_code == 0
    assert yard.hashes() == reference


def test_in_one_process_a_failing_shard_is_named_and_the_others_finish(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DEED", "fail:step:3")
    result = yard.go()
    assert (result.exit_code, len(yard.hashes())) == (7, 10)
    causes = read_json(yard.made() / ".work" / "quarantine" / "records-0003.json")["causes"]
    assert causes == ["ModelError: planted in shard 3"]


def test_workers_that_cannot_begin_end_the_stage_with_their_own_error(yard: Yard) -> None:
    chosen = Options(code=CLEAN, worker_models="executor_toys:Missing")
    result = run(load(yard.path, sets=TWO), yard.folder / "runs", FakeModels(), chosen)
    assert "Missing" in str(result.error)
    assert yard.hashes() == {}


def test_two_workers_that_do_not_run_the_same_model_are_an_error(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Local._environment
    monkeypatch.setenv("TOY_FACTS", "1")
    monkeypatch.setenv("TOY_DEED", "meet:step:all")
    count = iter(range(100))
    monkeypatch.setattr(
        Local, "_environment", lambda self, device: {**environment(self, device), "OMP_NUM_THREADS": str(next(count))}
    )
    result = yard.go(*TWO)
    assert result.exit_code == 7
    assert "two workers do not run the same thing: model 'precision'" in str(result.error)


@pytest.mark.parametrize("sets", [(), TWO])
def test_a_cap_in_the_middle_of_the_work_holds_and_the_rest_comes_out_the_same(
    yard: Yard, reference: dict[str, str], sets: tuple[str, ...]
) -> None:
    """Six shards of ten tokens under a cap of 35, which no number of whole shards hits."""
    result = yard.go(*sets, "budget.tokens=35")
    assert (result.exit_code, result.outcome) == (5, "budget")
    assert Ledger(yard.made().parent).spent().tokens <= 35
    assert 0 < len(yard.hashes()) < len(reference)
    assert yard.go(*sets, "budget.tokens=1000").exit_code == 0
    assert yard.hashes() == reference
    assert yard.manifest().spend["tokens"] <= 60 + 2 * 10  # at most the open shards are paid for twice


@pytest.mark.parametrize("sets", [(), TWO])
def test_a_cap_smaller_than_one_shard_is_not_passed_either(yard: Yard, sets: tuple[str, ...]) -> None:
    result = yard.go(*sets, "budget.tokens=7")
    assert result.outcome == "budget"
    assert Ledger(yard.made().parent).spent().tokens == 6
    assert yard.hashes() == {}


def test_money_that_shards_cost_counts_for_all_workers_together(yard: Yard) -> None:
    result = yard.go(*TWO, "made.price=0.3", "budget.money=1.0")
    assert result.outcome == "budget"
    assert Ledger(yard.made().parent).spent().money == pytest.approx(0.9)
    assert len(yard.hashes()) == 6


def test_the_purse_never_lends_more_than_there_is() -> None:
    budget = Budget(BudgetSettings(tokens=100), clock=lambda: 0.0)
    purse = Purse(budget, 2)
    purse.open(0)
    purse.open(1)
    assert purse.lend(0, Spend(tokens=60)).tokens == 60
    assert purse.lend(1, Spend()).tokens == 0
    purse.close(1)
    assert purse.lend(1, Spend(tokens=60)) is None
    assert purse.lend(1, Spend(tokens=30)).tokens == 30
    purse.report(0, Spend(tokens=50))
    assert purse.lend_more(0, Spend(tokens=71)) is None
    assert purse.lend_more(0, Spend(tokens=70)).tokens == 70
    purse.report(0, Spend(tokens=55))
    purse.close(0)
    assert purse.lend_more(1, Spend(tokens=45)).tokens == 45
    purse.silent(1, 3600.0)
    assert budget.stage == Spend(3600.0, 55.0)


def test_a_device_is_never_used_by_two() -> None:
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"workers": 2, "devices": ("cuda:0", "cuda:1")}, True),
        ({"workers": 2, "devices": ("cuda:0", "cuda:0")}, False),
        ({"workers": 3, "devices": ("cuda:0", "cuda:1")}, False),
        ({"workers": 2, "devices": ("cpu", "cpu")}, True),
    ]
    for values, fine in cases:
        local = Local(Local.Settings(**values))
        with contextlib.nullcontext() if fine else pytest.raises(SettingsError, match="cannot have a device each"):
            assert local._devices() == values["devices"]
    local = Local(Local.Settings(workers=2, devices=("cuda:0", "cuda:1"), threads=3))
    given = [local._environment(device) for device in local._devices()]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in given] == ["0", "1"]
    assert given[0]["OMP_NUM_THREADS"] == "3"
    assert Local(Local.Settings(workers=1024))._environment("cpu")["CUDA_VISIBLE_DEVICES"] == ""


SCRIPT = """
import sys
from pathlib import Path
from executor_toys import FakeModels
from pipeline_script import ScriptedModels
from pipeline_toys import CLEAN
from scripted_worker import open_scripted
from rung.pipeline.outputs import StageOutputs
from rung.pipeline.recipe import load
from rung.pipeline.runner import Options, run

options = Options(code=CLEAN, worker_models="executor_toys:FakeModels")
recipe = load(Path(sys.argv[1]), sets=["executor.workers=2", "executor.stop_seconds=10"])
sys.exit(run(recipe, Path(sys.argv[2]), FakeModels(), options).exit_code)
"""


@pytest.fixture
def waiting(yard: Yard) -> Iterator[subprocess.Popen[bytes]]:
    """A run in another process, whose workers all wait in the middle of a shard."""
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1] / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "TOY_DEED": "wait:step:all"}
    running = subprocess.Popen([sys.executable, "-c", SCRIPT, str(yard.path), str(yard.folder / "runs")],
                               env=environment)  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list((yard.folder / "traces").glob("wait-*"))) < 2:
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.02)
    yield running
    running.kill()
    running.wait()


def gone(traces: Path) -> bool:
    """Whether every worker that loaded a model is gone, within some seconds."""
    deadline = time.monotonic() + 60
    numbers = [int(path.name.split("-")[1]) for path in traces.glob("loaded-*")]
    assert len(numbers) == 2
    while any(_lives(number) for number in numbers) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(_lives(number) for number in numbers)


def _lives(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 75), (signal.SIGKILL, -9)])
def test_an_end_from_outside_leaves_no_process_and_can_be_resumed(
    yard: Yard, waiting: subprocess.Popen[bytes], reference: dict[str, str], how: int, code: int
) -> None:
    waiting.send_signal(how)
    assert waiting.wait(60) == code
    assert gone(yard.folder / "traces")
    assert not list(yard.made().glob("*.zst"))
    assert yard.go().exit_code == 0
    assert yard.hashes() == reference


def test_a_worker_that_is_stopped_does_not_outlive_the_run(yard: Yard, waiting: subprocess.Popen[bytes]) -> None:
    for path in (yard.folder / "traces").glob("loaded-*"):
        os.kill(int(path.name.split("-")[1]), signal.SIGSTOP)
    waiting.kill()
    assert gone(yard.folder / "traces")


def test_a_worker_ends_when_its_pipe_does(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(run="r", name="made", kind="executor_toys:Pieces", settings={}, seed=1, folder=yard.folder / "own",
              models="executor_toys:FakeModels")  # fmt: skip
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1] / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "TOY_DEED": "wait:step:all"}
    command = [sys.executable, "-m", "rung.pipeline.executors._worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as worker:
        assert worker.stdin is not None
        worker.stdin.write(f"{job.model_dump_json()}\n{Order(kind='do', index=0).model_dump_json()}\n".encode())
        worker.stdin.flush()
        deadline = time.monotonic() + 60
        while not (yard.folder / "traces" / "wait-0").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        worker.stdin.close()
        assert worker.wait(60) == 3


def test_a_stop_that_comes_after_a_shard_was_saved_does_not_unmake_it(tmp_path: Path) -> None:
    reports: list[Report] = []
    job = Job(run="r", name="made", kind="executor_toys:Pieces", settings={}, seed=1, folder=tmp_path, models="")
    worker = Worker(job, reports.append)
    outputs = _WorkerOutputs(job, {"records": "instruction"}, worker.tell)

    def work(index: int) -> None:
        """Save, then hear the stop."""
        outputs.shard("records", index, [])
        worker.take(Order(kind="stop"))
        worker.budget.spend()

    shards = Shards("records", (0,), 1, lambda: work, lambda index: None, Spend())
    worker.take(Order(kind="do", index=0))
    context: Any = types.SimpleNamespace(budget=worker.budget, events=Events())
    with pytest.raises(_Dismissed):
        _Handed(worker, outputs.made).run(shards, context, outputs)
    assert [report.kind for report in reports] == ["ready", "done"]
    assert [made.info.name for made in reports[-1].shards] == ["records-0000.jsonl.zst"]


def test_parts_made_apart_are_one_run(yard: Yard, reference: dict[str, str]) -> None:
    for shards, left in ((frozenset({0, 1, 2}), "3, 4, 5"), (frozenset({3, 4}), "5")):
        result = yard.go(shards={"made": shards})
        assert (result.exit_code, result.outcome) == (11, "incomplete")
        assert f"still to be made: {left}" in str(result.error)
    assert len(yard.hashes()) == 10
    assert yard.go(shards={"made": frozenset({5})}).exit_code == 0
    assert yard.hashes() == reference
    assert "stage made: done" in yard.log()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")
def test_a_ray_cluster_makes_the_same_shards_and_replaces_an_actor_that_dies(
    yard: Yard, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")
    monkeypatch.setenv("TOY_DEED", "kill:step:2:once")
    before = signal.getsignal(signal.SIGTERM)
    result = yard.go("executor=ray", "executor.workers=2", "executor.stop_seconds=10")
    assert result.exit_code == 0, result.error
    assert yard.hashes() == reference
    assert "is lost: " in yard.log()
    assert signal.getsignal(signal.SIGTERM) == before


def test_without_ray_its_extra_is_named(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else find(name))
    result = yard.go("executor=ray")
    assert result.exit_code == MissingDependency.exit_code
    assert "rung[ray]" in str(result.error)


def test_real_data_stages_come_out_the_same_from_workers(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bootstrap and merge with a scripted model that every process opens for itself."""
    critic = "{kind: information_gain, shrinkage: 0.0}"
    yard.path.write_text(
        "run: toy\nmodel: tiny:llama\nseed: 3\nstages:\n"
        f"  - calibrate: {{critics: [{critic}], limits: {{mandated: [empty], num_resamples: 100}}}}\n"
        "  - bootstrap: {name: made, count: 30, shards: 3, critic_threshold: 0.2}\n"
        "  - merge: {name: joined, of: made, most_repeats: 0.6}\n"
    )
    for stage in ("bootstrap", "calibrate"):
        monkeypatch.setattr(f"rung.pipeline.stages.{stage}.open_engine", open_scripted)
    options = Options(code=CLEAN, worker_models="scripted_worker:Keeper")
    for name, sets in (("one", ()), ("two", TWO)):
        result = run(load(yard.path, sets=sets), yard.folder / name, ScriptedModels(), options)
        assert result.exit_code == 0, result.error
    for stage in ("made", "joined"):
        one, two = (open_manifest(yard.folder / name / "toy" / stage).manifest for name in ("one", "two"))
        assert one.shards == two.shards
        assert (one.calibration, one.seeds, one.figures) == (two.calibration, two.seeds, two.figures)
        assert one.spend["tokens"] == two.spend["tokens"]


def an_output(folder: Path, inputs: dict[str, str]) -> StageOutputs:
    outputs = StageOutputs(folder, {"records": "instruction"}, Events(), "made")
    outputs.begin("{}", 1, inputs)
    return outputs


def test_only_bytes_that_are_what_their_maker_says_are_published(tmp_path: Path) -> None:
    outputs = an_output(tmp_path / "made", {})
    info = write_shard(tmp_path, "records-0003.jsonl.zst", "instruction", [Instruction("i", "x", "t", "h", 0)])
    data = (tmp_path / info.name).read_bytes()
    for index, source in ((3, data + b"x"), (2, data), (3, data[:5])):
        with pytest.raises(DataError, match="not what its maker says"):
            outputs.adopt("records", index, info, source)
        assert outputs.finished("records") == []
        assert not list((tmp_path / "made").glob("*.zst"))
    outputs.adopt("records", 3, info, tmp_path / info.name)
    assert [record.id for record in outputs.shard_records("records", 3)] == ["i"]
    assert an_output(tmp_path / "made", {}).finished("records") == [3]


def test_unfinished_work_on_other_inputs_is_not_taken_up(tmp_path: Path) -> None:
    an_output(tmp_path / "made", {"data": "a"})
    an_output(tmp_path / "made", {"data": "a"})
    with pytest.raises(Drift, match="unfinished work was made from other records"):
        an_output(tmp_path / "made", {"data": "b"})
