"""Records on disk: what is written is what is read, and anything damaged is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from rung.base.errors import DataError
from rung.base.fingerprint import code, content_hash, hash_file
from rung.records.manifest import FileInfo, Manifest, identity_text, open_manifest, write_manifest
from rung.records.shards import read_shard, verify_shard, write_shard
from rung.records.types import Critique, Drop, SftRecord, TestItem, from_plain, to_plain

CRITIQUE = Critique("choice", True, True, "A", -0.1, -2.4, 2.3, 2.3, 1.0)
RECORD = SftRecord("id1", "Name a fruit.", "Apple é.", "factual", "p", "tp", "c", "raw", "stop", 3, None, CRITIQUE)
DROP = Drop("id2", "text", "cleaning", "empty", (0, 3))


def test_a_record_survives_the_round_trip(tmp_path: Path) -> None:
    for name, kind, record in (("sft", SftRecord, RECORD), ("drop", Drop, DROP)):
        assert from_plain(kind, json.loads(json.dumps(to_plain(record)))) == record
        info = write_shard(tmp_path, f"{name}.jsonl.zst", name, [record, record])
        assert list(read_shard(tmp_path, info)) == [record, record]
    item = TestItem("i", "Say yes.", "format", "f", {"starts_with": {"text": "yes"}}, "yes")
    assert from_plain(TestItem, to_plain(item)) == item


def test_equal_records_make_equal_bytes(tmp_path: Path) -> None:
    first = write_shard(tmp_path, "a.zst", "sft", [RECORD])
    again = write_shard(tmp_path, "b.zst", "sft", [RECORD])
    assert (first.sha256, first.records_sha256) == (again.sha256, again.records_sha256)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"instruction": None}, "instruction"),
        ({"num_response_tokens": "3"}, "num_response_tokens"),
        ({"num_response_tokens": True}, "num_response_tokens"),
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"pair_critique": {"critic": "x"}}, "is missing from a Critique"),
    ],
)
def test_a_bad_record_is_named(change: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        from_plain(SftRecord, {**to_plain(RECORD), **change}, "shard:500")


def test_a_missing_field_is_named() -> None:
    values = to_plain(RECORD)
    del values["response"]
    with pytest.raises(DataError, match=r"shard:500: field 'response' is missing"):
        from_plain(SftRecord, values, "shard:500")


def test_the_wrong_record_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a Drop in a shard of sft"):
        write_shard(tmp_path, "a.zst", "sft", [DROP])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_shard_is_not_read_silently(tmp_path: Path) -> None:
    info = write_shard(tmp_path, "a.zst", "sft", [RECORD] * 50)
    path = tmp_path / info.name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="does not hash"):
        verify_shard(tmp_path, info)
    with pytest.raises(DataError, match=r"a\.zst"):
        list(read_shard(tmp_path, info))
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        verify_shard(tmp_path, info)


def manifest(folder: Path) -> Manifest:
    """A finished output of one shard and one file."""
    shard = write_shard(folder, "records-0000.jsonl.zst", "sft", [RECORD])
    (folder / "summary.txt").write_text("fine")
    text = identity_text("bootstrap", 1, {"count": 1}, {}, 0)
    made = Manifest(
        run="r", name="pilot", stage="bootstrap", stage_version=1, fingerprint=content_hash(text.encode()),
        identity=text, settings={"count": 1}, shards={"sft": [shard]},
        files=[FileInfo(name="summary.txt", sha256=hash_file(folder / "summary.txt"), role="summary")],
        code=code(), started="2026-01-01T00:00:00Z", ended="2026-01-01T00:00:01Z", outcome="done",
    )  # fmt: skip
    write_manifest(folder, made)
    return made


def test_a_manifest_reads_back_and_verifies(tmp_path: Path) -> None:
    made = manifest(tmp_path)
    opened = open_manifest(tmp_path)
    opened.verify()
    assert opened.manifest == made
    assert list(opened.records("sft")) == [RECORD]
    assert opened.count("sft") == 1
    assert opened.file("summary").read_text() == "fine"
    with pytest.raises(DataError, match="it has: sft"):
        list(opened.records("pairs"))


@pytest.mark.parametrize("what", ["settings text", "file", "shard"])
def test_a_manifest_that_does_not_recompute_is_refused(tmp_path: Path, what: str) -> None:
    manifest(tmp_path)
    if what == "settings text":
        path = tmp_path / "manifest.json"
        path.write_text(path.read_text().replace('\\"count\\":1', '\\"count\\":2'))
    elif what == "file":
        (tmp_path / "summary.txt").write_text("better")
    else:
        write_shard(tmp_path, "records-0000.jsonl.zst", "sft", [dataclasses.replace(RECORD, response="better")])
    with pytest.raises(DataError):
        open_manifest(tmp_path).verify()


def test_another_schema_version_is_refused_with_the_command(tmp_path: Path) -> None:
    manifest(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(DataError, match=r"(?s)schema version 99.*rung migrate"):
        open_manifest(tmp_path)


def test_no_manifest_and_no_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished output"):
        open_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not a manifest"):
        open_manifest(tmp_path)
