"""The runner: skips what is finished, believes only what recomputes, and goes past a gate only on purpose."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pipeline_toys import DIRTY, UNKNOWN

from rung.base.errors import GateFailed, RungError
from rung.base.files import read_json
from rung.pipeline.identity import content_of
from rung.pipeline.ledger import Ledger, seal_of
from rung.pipeline.lock import locked
from rung.pipeline.recipe import load
from rung.pipeline.replace import iterations
from rung.pipeline.sharding import for_each_shard
from rung.pipeline.verify import check_output
from rung.records.manifest import open_manifest, write_manifest
from rung.records.shards import read_shard, write_shard


def edit(path: Path, change: Any) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def hint_of(error: RungError | None) -> str:
    return error.hint if error else ""


def test_a_second_run_skips_everything_and_says_so(bench: Any, outcomes: Any) -> None:
    assert outcomes(bench.go()) == ["done", "done", "done"]
    before = {p: p.stat().st_mtime_ns for p in bench.folder.rglob("*.zst")}
    again = bench.go()
    assert outcomes(again) == ["skipped"] * 3
    assert again.exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in bench.folder.rglob("*.zst")} == before
    lines = [json.loads(line) for line in (bench.folder / "events.jsonl").read_text().splitlines()]
    assert [e["stage"] for e in lines if "skipped" in e.get("message", "")] == ["made", "copy", "steps"]
    assert {e["run"] for e in lines} == {"toy"}
    assert bench.models.released == 2


def test_the_manifest_holds_what_a_reader_needs_and_no_path(bench: Any, tmp_path: Path) -> None:
    bench.go("budget.price_per_hour=3600")
    manifest = open_manifest(bench.folder / "made").manifest
    assert manifest.calibration == {"critic": {"auc": 0.9}}
    assert manifest.figures["total"] == 12
    assert manifest.gate == {"passed": True, "reasons": [], "decided": True}
    assert manifest.parents == {"model": "fake:m"}
    assert manifest.spend["tokens"] == 30
    assert manifest.estimate["tokens"] == 30
    assert manifest.estimate["tokens_error_percent"] == 0
    assert manifest.estimate["money"] == pytest.approx(36)
    assert manifest.spend["money"] == pytest.approx(manifest.spend["seconds"])
    assert manifest.environment["torch"]
    copy = open_manifest(bench.folder / "copy").manifest
    assert copy.degraded == [{"what": "index", "how": "went on without it"}]
    assert copy.settings["temperature"] == 0.5
    assert copy.origins["temperature"] == "derived from made"
    assert copy.settings["limits"] == {"low": 1, "high": 9}
    assert copy.origins["limits.high"] == "derived from made"
    assert "model" not in copy.parents
    assert copy.parents["data"] == manifest.fingerprint
    for path in [p for suffix in ("json", "jsonl") for p in bench.folder.rglob(f"*.{suffix}")]:
        assert str(tmp_path) not in path.read_text()


def test_only_what_the_change_reaches_has_drifted_and_the_fields_are_named(bench: Any) -> None:
    bench.go()
    result = bench.go("made.temperature=0.7")
    assert (result.exit_code, result.outcome) == (6, "drift")
    assert "made: settings.temperature: 0.5 -> 0.7" in str(result.error)
    assert "--rebuild made --rebuild copy --rebuild steps" in hint_of(result.error)
    only = bench.go("steps.steps=21")
    assert "steps: settings.steps: 20 -> 21" in str(only.error)
    assert "made:" not in str(only.error)


def test_another_seed_or_model_is_drift_too(bench: Any) -> None:
    bench.go()
    assert "recipe seed 0 -> 1" in str(bench.go("seed=1").error)
    other = bench.go("model=fake:other")
    assert 'made: parents.model: "fake:m" -> "fake:other"' in str(other.error)


def test_a_models_identity_is_not_its_place(bench: Any) -> None:
    same = {"identify_model": lambda source: "the same weights"}
    assert bench.go(**same).exit_code == 0
    assert bench.go("model=fake:elsewhere", **same).exit_code == 0


def test_rebuild_moves_aside_and_keeps_every_iterations_manifest(bench: Any, outcomes: Any) -> None:
    bench.go()
    result = bench.go("made.temperature=0.7", rebuild=["made", "copy", "steps"])
    assert outcomes(result) == ["done"] * 3
    found = iterations(bench.folder, "made")
    assert [m.settings["temperature"] for m in found] == [0.5, 0.7]
    assert not list((bench.folder / ".replaced").glob("*/*"))
    assert outcomes(bench.go("made.temperature=0.7")) == ["skipped"] * 3


def test_the_old_output_stays_until_the_new_one_passed_its_gate(bench: Any, outcomes: Any) -> None:
    bench.go()
    old = content_of(open_manifest(bench.folder / "made"))
    result = bench.go("made.minimum=99", rebuild=["made", "copy", "steps"])
    assert outcomes(result) == ["gate_failed", "not_started", "not_started"]
    aside = next((bench.folder / ".replaced" / "made").iterdir())
    assert content_of(open_manifest(aside)) == old
    assert open_manifest(bench.folder / "copy").manifest.outcome == "done"


def test_a_rebuild_that_was_interrupted_goes_on(bench: Any, outcomes: Any) -> None:
    bench.go()
    sets = ("made.fail_shards=[2]",)
    assert outcomes(bench.go(*sets, rebuild=["made", "copy", "steps"]))[0] == "model"
    stamp = (bench.folder / "made" / "records-0000.jsonl.zst").stat().st_mtime_ns
    bench.go(*sets, rebuild=["made", "copy", "steps"])
    assert (bench.folder / "made" / "records-0000.jsonl.zst").stat().st_mtime_ns == stamp
    assert len(list((bench.folder / ".replaced" / "made").iterdir())) == 1


def test_a_failed_gate_is_written_reported_again_and_stops_what_follows(bench: Any, outcomes: Any) -> None:
    first = bench.go("made.minimum=13")
    assert (first.exit_code, outcomes(first)) == (4, ["gate_failed", "not_started", "not_started"])
    manifest = open_manifest(bench.folder / "made").manifest
    assert manifest.outcome == "gate_failed"
    assert manifest.gate["reasons"] == ["total: total is 12, it must be >= 13"]
    attempts = Ledger(bench.folder).next_attempt()
    again = bench.go("made.minimum=13")
    assert (again.exit_code, outcomes(again)) == (4, ["gate_failed", "not_started", "not_started"])
    assert "total is 12" in str(again.error)
    assert "--force made" in hint_of(again.error)
    assert Ledger(bench.folder).next_attempt() == attempts
    assert not (bench.folder / "copy").exists()


def test_too_few_samples_refuse_to_decide(bench: Any) -> None:
    result = bench.go("made.min_samples=30")
    assert result.exit_code == 4
    assert "refused to decide" in str(result.error)
    assert open_manifest(bench.folder / "made").manifest.gate["decided"] is False


@pytest.mark.parametrize("at_once", [True, False])
def test_force_is_recorded_in_everything_downstream(bench: Any, outcomes: Any, at_once: bool) -> None:
    if not at_once:
        assert bench.go("made.minimum=13").exit_code == 4
    result = bench.go("made.minimum=13", force=["made"])
    assert outcomes(result) == ["forced", "done", "done"]
    for name in ("made", "copy", "steps"):
        bypasses = open_manifest(bench.folder / name).manifest.bypasses
        assert bypasses == ["gate of made: total: total is 12, it must be >= 13"]
    assert open_manifest(bench.folder / "made").manifest.gate["passed"] is False
    assert bench.go("made.minimum=13").exit_code == 0


def test_dirty_or_unknown_code_needs_its_flag_and_leaves_its_mark(bench: Any) -> None:
    for bad in (DIRTY, UNKNOWN):
        result = bench.go(code=bad)
        assert result.exit_code == 4
        assert "--allow-dirty" in hint_of(result.error)
        assert not (bench.folder / "made").exists()
    assert bench.go(code=DIRTY, allow_dirty=True).exit_code == 0
    assert "not committed" in open_manifest(bench.folder / "steps").manifest.bypasses[0]
    assert bench.go(code=DIRTY).exit_code == 0  # nothing is left to do, so nothing is let past


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (lambda m: m["gate"].update(passed=True, reasons=[]), 4, "gate.passed"),
        (lambda m: m["figures"].update(total=13), 3, "figures.total"),
        (lambda m: m["figures"].pop("total"), 3, "figures.total"),
        (lambda m: m.update(outcome="done"), 3, "'outcome'"),
        (lambda m: m.update(bypasses=["gate of made: all is well"]), 3, "'bypasses'"),
        (lambda m: m["calibration"].update(critic={"auc": 0.99}), 3, "'calibration'"),
        (lambda m: m["model"].clear(), 3, "'model'"),
        (lambda m: m["settings"].update(temperature=0.1), 3, "'settings'"),
        (lambda m: m.pop("code"), 3, "code"),
        (lambda m: m.update(fingerprint="0" * 64), 3, "fingerprint"),
    ],
)
def test_an_edited_manifest_convinces_nobody(bench: Any, change: Any, code: int, named: str) -> None:
    assert bench.go("made.minimum=13").exit_code == 4
    edit(bench.folder / "made" / "manifest.json", change)
    result = bench.go("made.minimum=13")
    assert result.exit_code == code
    assert named in str(result.error)
    assert not (bench.folder / "copy").exists()


def test_records_that_were_changed_together_with_their_hashes_are_found(bench: Any) -> None:
    bench.go()
    folder = bench.folder / "made"
    opened = open_manifest(folder)
    old = opened.manifest.shards["records"][0]
    rows = [replace(row, text="mine") for row in read_shard(folder, old)]
    info = write_shard(folder, old.name, "instruction", rows)
    edit(folder / "manifest.json", lambda m: m["shards"]["records"].__setitem__(0, info.model_dump()))
    result = bench.go()
    assert result.exit_code == 3
    assert "'shards' was changed after the stage ended" in str(result.error)


def test_a_note_that_is_no_number_is_named(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        "pipeline_toys.Copy.run",
        lambda self, context, inputs, outputs: outputs.note("figures", {"loss": {"last": [1.0, float("nan")]}}),
    )
    assert "figures 'loss.last.1' is not a finite number" in str(bench.go().error)


def test_a_gates_early_no_ends_the_shards_at_once(bench: Any, monkeypatch: Any) -> None:
    def work(index: int) -> None:
        tried.append(index)
        raise GateFailed("enough seen")

    tried: list[int] = []
    monkeypatch.setattr(
        "pipeline_toys.Make.run",
        lambda self, context, inputs, outputs: for_each_shard(context, outputs, "records", range(4), lambda: work),
    )
    result = bench.go()
    assert (result.exit_code, tried) == (4, [0])


def test_an_edited_identity_is_drift_or_refused(bench: Any) -> None:
    bench.go()
    edit(bench.folder / "made" / "manifest.json", lambda m: m.update(identity=m["identity"].replace("0.5", "0.6")))
    result = bench.go()
    assert (result.exit_code, result.outcome) == (6, "drift")


def test_a_manifest_without_its_ledger_is_refused(bench: Any) -> None:
    bench.go()
    (bench.folder / "ledger.jsonl").unlink()
    result = bench.go()
    assert result.exit_code == 3
    assert "ledger knows nothing" in str(result.error)


@pytest.mark.parametrize("name", ["made/records-0001.jsonl.zst", "copy/summary.txt", "steps/weights/a.txt"])
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_changed_or_dropped_file_is_named(bench: Any, name: str, how: str) -> None:
    bench.go()
    path = bench.folder / name
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"x")
    result = bench.go()
    assert result.exit_code == 3
    assert Path(name).name in str(result.error)
    rebuilt = bench.go(rebuild=[name.split("/")[0]])
    assert rebuilt.exit_code == 0


def test_other_records_under_the_same_identity_do_not_pass_downstream(bench: Any, monkeypatch: Any) -> None:
    bench.go()
    monkeypatch.setattr("pipeline_toys.stream", lambda *names: __import__("random").Random())
    result = bench.go(rebuild=["made"])
    assert result.outcome == "drift"
    assert "copy" in str(result.error)
    assert "data" in str(result.error)


def test_one_failing_shard_neither_stops_nor_hides(bench: Any, monkeypatch: Any, outcomes: Any) -> None:
    result = bench.go("made.shards=5", "made.fail_shards=[1, 3]")
    assert result.exit_code == 7
    assert "2 of 5 shards failed" in str(result.error)
    assert "shard 1: ModelError" in str(result.error)
    assert "shard 3: ModelError" in str(result.error)
    whole = sorted(p.name for p in (bench.folder / "made").glob("records-*"))
    assert whole == [f"records-000{i}.jsonl.zst" for i in (0, 2, 4)]
    monkeypatch.setenv("TOY_HEALED", "1")
    assert bench.go("made.shards=5", "made.fail_shards=[1, 3]").exit_code == 0


def test_a_defect_is_written_to_the_ledger_and_raised(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline_toys.Copy.run", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.go()
    assert Ledger(bench.folder).entries()[-1].outcome == "crashed"


def test_a_figure_that_is_no_number_is_named(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline_toys.Make.figures", lambda *a: {"rates": {"x": float("nan")}})
    assert "figure 'rates.x' is not a finite number" in str(bench.go().error)


def test_one_process_at_a_time(bench: Any) -> None:
    with locked(bench.folder):
        result = bench.go()
    assert (result.exit_code, result.outcome) == (9, "busy")
    (bench.folder / ".lock").write_text("999999\n")  # of a process long gone
    assert bench.go().exit_code == 0


def test_another_provider_takes_a_place_by_configuration_alone(bench: Any) -> None:
    bench.path.write_text(bench.path.read_text().replace("toys:Make", "toys:Other"))
    assert bench.go().exit_code == 0
    assert [r.text for r in open_manifest(bench.folder / "copy").records("records")] == ["other"]


def test_names_after_rebuild_and_force_are_checked(bench: Any) -> None:
    assert "no stage 'mad'" in str(bench.go(rebuild=["mad"]).error)
    assert bench.go(force=["mad"]).exit_code == 2


def test_the_resolved_recipe_lies_beside_the_outputs(bench: Any) -> None:
    bench.go("made.count=3")
    stored = read_json(bench.folder / "recipe.json")
    assert stored["stages"][0]["origins"]["count"] == "--set"


def test_a_cap_ends_the_run_resumably_and_what_was_spent_stays_spent(bench: Any, outcomes: Any) -> None:
    result = bench.go("budget.tokens=25")
    assert (result.exit_code, result.outcome) == (5, "budget")
    assert Ledger(bench.folder).spent().tokens == 20
    assert bench.go("budget.tokens=25").exit_code == 5
    assert Ledger(bench.folder).spent().tokens == 20
    assert outcomes(bench.go("budget.tokens=1000"))[0] == "done"
    assert open_manifest(bench.folder / "made").manifest.spend["tokens"] == 30


def test_an_output_of_changed_source_without_its_mark_is_not_used(bench: Any) -> None:
    bench.go()
    folder, spec = bench.folder / "made", load(bench.path).stages[0]
    manifest = open_manifest(folder).manifest.model_copy(update={"code": DIRTY})
    write_manifest(folder, manifest)
    with pytest.raises(GateFailed, match="unknown or changed source"):
        check_output(folder, "made", spec.stage, seal_of(manifest))
    marked = manifest.model_copy(update={"bypasses": ["code: on purpose"]})
    write_manifest(folder, marked)
    assert check_output(folder, "made", spec.stage, seal_of(marked)).usable


def test_a_torn_line_of_the_event_log_does_not_break_the_next(bench: Any) -> None:
    bench.folder.mkdir(parents=True)
    (bench.folder / "events.jsonl").write_text('{"kind": "log"}\n{"kind": "lo')
    assert bench.go().exit_code == 0
    assert all(json.loads(line) for line in (bench.folder / "events.jsonl").read_text().splitlines())
