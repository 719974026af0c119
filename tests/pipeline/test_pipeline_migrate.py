"""Migration: outputs of version 0 are brought up in place, with a backup, and the run goes on as if untouched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import zstandard

from rung.app.cli import execute
from rung.base.errors import DataError
from rung.base.fingerprint import canonical, content_hash, hash_file
from rung.pipeline import migrate as migrating
from rung.pipeline.ledger import Entry, Ledger
from rung.pipeline.migrate import BACKUPS, Migrated, migrate, run_folder
from rung.records.manifest import open_manifest
from rung.records.migrating import steps_from
from rung.records.migrations.v0_to_v1 import V0ToV1
from rung.records.shards import read_shard

LATER = ("critique", "outcome", "part", "reason")


def age(folder: Path, sealed: bool = True) -> None:
    """Make the output in `folder` what version 0 would have written, seal included."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    for infos in values["shards"].values():
        for info in infos:
            if info["record_type"] == "instruction":
                info.update(aged_shard(folder / info["name"]))
    del values["schema_version"], values["inputs_content"]
    path.write_text(json.dumps(values))
    if sealed:
        seal = {key: content_hash(value)[:16] for key, value in values.items()}
        Ledger(folder.parent).append(Entry(event="sealed", stage=folder.name, seal=seal))


def aged_shard(path: Path) -> dict[str, str]:
    """Records without their later fields; the new hashes."""
    rows = [
        json.loads(line) for line in zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines()
    ]
    lines = "".join(canonical({k: v for k, v in row.items() if k not in LATER}) + "\n" for row in rows).encode()
    path.write_bytes(zstandard.ZstdCompressor(level=3).compress(lines))
    return {"sha256": hash_file(path), "records_sha256": content_hash(lines)}


@pytest.fixture
def old(bench: Any) -> Any:
    """A bench whose finished run has its two first stages at version 0; the third is of today and reads them."""
    assert bench.go().exit_code == 0
    bench.fresh = {name: tree(bench.folder / name) for name in ("made", "copy", "steps")}
    for name in ("made", "copy"):
        age(bench.folder / name)
    return bench


def tree(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_old_output_is_refused_everywhere_with_the_exact_command(old: Any, capsys: Any) -> None:
    command = f"rung migrate {old.folder}/"
    assert command in str(old.go().error)
    runs = ["--runs", str(old.runs)]
    for arguments in (["inspect", "toy/made"], ["report", "toy"], ["compare", "toy/made", "toy/made"]):
        assert execute([*arguments, *runs]) == 3
        assert command in capsys.readouterr().err.replace("\n", "")


def test_a_run_of_version_0_is_upgraded_in_place_and_goes_on(old: Any, outcomes: Any, capsys: Any) -> None:
    before = tree(old.folder / "made")
    assert execute(["migrate", str(old.folder / "made")]) == 0
    assert "made: version 0 is brought to 1" in capsys.readouterr().out
    assert tree(old.folder / BACKUPS / "made-v0-0001") == before
    manifest = open_manifest(old.folder / "copy").manifest
    records = list(read_shard(old.folder / "copy", manifest.shards["records"][0]))
    assert (len(records), records[0].outcome, records[0].critique) == (12, "parsed", None)
    assert outcomes(old.go()) == ["skipped"] * 3
    for name in ("made", "copy", "steps"):
        assert tree(old.folder / name) == old.fresh[name]


def test_the_step_writes_out_what_the_absence_of_a_field_meant(old: Any, monkeypatch: Any) -> None:
    step = V0ToV1()
    assert step.record("instruction", {"text": "a"}) == {
        "text": "a", "critique": None, "outcome": "parsed", "part": "", "reason": "",
    }  # fmt: skip
    assert step.record("instruction", {"outcome": "dropped"})["outcome"] == "dropped"
    judged = step.record("sft", {"pair_critique": {"margin": 1.0}, "instruction_critique": None})
    assert judged == {"pair_critique": {"margin": 1.0, "decision": None}, "instruction_critique": None}
    monkeypatch.setattr(V0ToV1, "record", lambda self, kind, values: {**values, "outcome": f"aged {kind}"})
    migrate(old.folder)
    info = open_manifest(old.folder / "made").manifest.shards["records"][0]
    assert next(read_shard(old.folder / "made", info)).outcome == "aged instruction"


def test_a_dry_run_says_what_it_would_do_and_does_nothing(old: Any, capsys: Any) -> None:
    before = tree(old.folder)
    assert execute(["migrate", "toy", "--dry-run", "--runs", str(old.runs)]) == 0
    assert "copy: version 0 would be brought to 1" in capsys.readouterr().out
    assert tree(old.folder) == before
    assert [row.name for row in migrate(old.folder)] == ["made", "copy"]
    assert migrate(old.folder) == []


def test_readers_of_a_rewritten_stage_are_brought_along(bench: Any, outcomes: Any) -> None:
    bench.go()
    age(bench.folder / "made")
    values = json.loads((bench.folder / "made" / "manifest.json").read_text())
    copy = bench.folder / "copy" / "manifest.json"
    noted = json.loads(copy.read_text())
    noted["inputs_content"]["data"] = migrating.plain_content(values)
    copy.write_text(json.dumps(noted))
    Ledger(bench.folder).append(
        Entry(event="sealed", stage="copy", seal={k: content_hash(v)[:16] for k, v in noted.items()})
    )
    assert migrate(bench.folder) == [Migrated("made", 0), Migrated("copy", 1, only_inputs=True)]
    assert outcomes(bench.go()) == ["skipped"] * 3


def test_a_newer_version_is_refused_by_name(bench: Any) -> None:
    bench.go()
    path = bench.folder / "made" / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 7'))
    before = tree(bench.folder)
    with pytest.raises(DataError, match=r"schema version 7 is newer than the 1"):
        migrate(bench.folder)
    with pytest.raises(DataError, match=r"schema version 7 is newer"):
        open_manifest(bench.folder / "made")
    assert tree(bench.folder) == before
    with pytest.raises(DataError, match="no step v-1_to_v0"):
        steps_from(-1, "here")


def test_what_was_edited_or_damaged_is_not_migrated(old: Any) -> None:
    path = old.folder / "made" / "manifest.json"
    whole = path.read_text()
    path.write_text(whole.replace('"temperature": 0.5', '"temperature": 0.6'))
    with pytest.raises(DataError, match="'settings' was changed after the stage ended"):
        migrate(old.folder)
    path.write_text(whole)
    shard = old.folder / "made" / "records-0001.jsonl.zst"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match="does not hash"):
        migrate(old.folder)
    assert path.read_text() == whole


@pytest.mark.parametrize("moment", ["before the swap", "between the renames", "before the seal"])
def test_a_kill_at_any_moment_is_finished_by_the_next_call(
    old: Any, outcomes: Any, monkeypatch: Any, moment: str
) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL: nothing of ours catches it."""

    def killed(*arguments: Any) -> None:
        """Die."""
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "before the swap":
            patch.setattr(migrating, "_backup", lambda *arguments: killed() or Path())
            (old.folder / ".migrating" / "made").mkdir(parents=True)
        elif moment == "between the renames":
            rename = Path.rename
            patch.setattr(Path, "rename", lambda self, to: killed() if ".migrating" in str(self) else rename(self, to))
        else:
            patch.setattr(migrating, "_seal", killed)
        with pytest.raises(Killed):
            migrate(old.folder)
    migrate(old.folder)
    assert outcomes(old.go()) == ["skipped"] * 3


def test_manifests_of_replaced_iterations_come_along(old: Any) -> None:
    kept = old.folder / ".history" / "made" / "0001"
    kept.mkdir(parents=True)
    shutil.copy(old.folder / "made" / "manifest.json", kept / "manifest.json")
    migrate(old.folder)
    assert open_manifest(kept).manifest.schema_version == 1
    assert "schema_version" not in json.loads((kept / "manifest.json.v0").read_text())


def test_nothing_to_migrate_is_said(tmp_path: Path, bench: Any) -> None:
    with pytest.raises(DataError, match="no finished output"):
        run_folder(tmp_path / "nowhere")
    bench.go()
    assert run_folder(bench.folder / "made") == bench.folder
