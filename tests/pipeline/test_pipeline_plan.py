"""The plan: what would run, from what, with which settings, at what cost; nothing is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rung.base.errors import SettingsError
from rung.pipeline.plan import plan
from rung.pipeline.rates import Rates
from rung.pipeline.recipe import load
from rung.pipeline.runner import Options
from rung.records.manifest import open_manifest


def states(bench: Any, *sets: str, **options: Any) -> list[str]:
    found = plan(load(bench.path, sets=sets), bench.runs, Options(**options))
    return [stage.state for stage in found.stages]


def test_before_anything_ran(bench: Any) -> None:
    found = plan(load(bench.path, sets=["budget.price_per_hour=100", "budget.money=10"]), bench.runs)
    made, copy, _ = found.stages
    assert [stage.state for stage in found.stages] == ["to_do"] * 3
    assert made.estimate.money == pytest.approx(1.0)
    assert made.estimate.basis == "a toy"
    assert found.projection.money == pytest.approx(1.0)
    assert found.projection.share == pytest.approx(0.1)
    assert copy.inputs == {"data": "made/manifest.json"}
    assert made.outputs == ("made/records-*.jsonl.zst", "made/drops-*.jsonl.zst", "made/manifest.json")
    assert not bench.runs.exists()


def test_settings_have_values_and_origins(bench: Any) -> None:
    bench.go()
    found = plan(load(bench.path, sets=["seed=0"]), bench.runs)
    rows = {row.path: row for row in found.stages[0].settings}
    assert (rows["temperature"].value, rows["temperature"].origin) == (0.5, "default")
    derived = {row.path: row for row in found.stages[1].settings}["temperature"]
    assert (derived.value, derived.origin) == (0.5, "derived from made")
    assert {row.path: row.origin for row in found.settings}["seed"] == "--set"
    limits = [(row.path, row.value, row.origin) for row in found.stages[1].settings if row.path.startswith("limits")]
    assert limits == [("limits.low", 1, "derived from made"), ("limits.high", 9, "derived from made")]
    before = plan(load(bench.path), bench.runs / "elsewhere").stages[1].settings
    assert ("limits.high", 5, "default") in [(row.path, row.value, row.origin) for row in before]


def test_states_after_a_run(bench: Any) -> None:
    bench.go()
    assert states(bench) == ["done"] * 3
    found = plan(load(bench.path), bench.runs)
    assert found.projection.seconds == 0
    assert "made/records-0002.jsonl.zst" in found.stages[0].outputs
    assert "copy/summary.txt" in found.stages[1].outputs
    assert found.spent.tokens == 50
    assert states(bench, "steps.steps=3") == ["done", "done", "drifted"]
    drifted = plan(load(bench.path, sets=["made.count=9"]), bench.runs)
    assert drifted.stages[0].detail == ("settings.count: 4 -> 9",)
    assert "made: drifted: settings.count: 4 -> 9" in drifted.problems
    assert states(bench, rebuild=frozenset({"steps"})) == ["done", "done", "rebuild"]
    (bench.folder / "copy" / "manifest.json").write_text("{")
    assert states(bench) == ["done", "broken", "done"]


def test_a_failed_gate_blocks_and_unfinished_work_shows(bench: Any) -> None:
    bench.go("made.minimum=13")
    found = plan(load(bench.path, sets=["made.minimum=13"]), bench.runs)
    assert [stage.state for stage in found.stages] == ["gate_failed", "blocked", "blocked"]
    assert found.stages[0].detail == ("total: total is 12, it must be >= 13",)
    assert found.stages[1].detail == ("the run stops at made",)
    assert states(bench, "made.minimum=13", force=frozenset({"made"})) == ["done", "to_do", "to_do"]
    other = "run: other\n" + bench.path.read_text().partition("\n")[2]
    bench.path.write_text(other)
    bench.go("made.fail_shards=[1]")
    assert states(bench, "made.fail_shards=[1]") == ["begun", "to_do", "to_do"]


def test_planning_writes_nothing(bench: Any) -> None:
    bench.go()
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in Path(bench.runs).rglob("*")}
    states(bench)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in Path(bench.runs).rglob("*")} == before


def test_unknown_names_are_refused(bench: Any) -> None:
    with pytest.raises(SettingsError, match="no stage 'mad'"):
        states(bench, rebuild=frozenset({"mad"}))


def test_what_was_measured_is_the_next_estimate(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates(tmp_path / "rates")
    before = plan(load(bench.path), bench.runs, Options(rates=rates)).stages[1].estimate
    assert (before.seconds, before.basis) == (0.0, "never run on this machine with this model")
    bench.go(rates=rates)
    spent = open_manifest(bench.folder / "copy").manifest.spend["seconds"]
    assert spent > 0
    monkeypatch.setattr("pipeline_toys.Copy.units", lambda self, inputs: 15.0)
    after = plan(load(bench.path), tmp_path / "elsewhere", Options(rates=Rates(tmp_path / "rates"))).stages[1].estimate
    assert after.seconds == pytest.approx(3 * spent)
    assert "on this machine, " in after.basis
    for path in (tmp_path / "rates").iterdir():
        path.write_text("{ broken")
    damaged = plan(load(bench.path), tmp_path / "elsewhere", Options(rates=rates)).stages[1].estimate
    assert damaged.seconds == 0.0
