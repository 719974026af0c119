"""Identity, seeds, atomic writing and events."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from rung.base import files
from rung.base.errors import StorageError
from rung.base.events import Events, JsonLines
from rung.base.fingerprint import canonical, code, content_hash, differing
from rung.base.seeds import derive, stream, uniform


def test_canonical_text_does_not_depend_on_order() -> None:
    assert canonical({"b": (1, 2), "a": {3}}) == canonical({"a": [3], "b": [1, 2]}) == '{"a":[3],"b":[1,2]}'
    assert content_hash({"a": 1}) != content_hash({"a": 2})


def test_differing_names_each_field() -> None:
    rows = differing({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": 1, "y": 5}, "c": 3})
    assert rows == ["a.y: 2 -> 5", "b: 3 -> null", "c: null -> 3"]


def test_code_provenance_is_of_the_source_files() -> None:
    assert len(code().source_hash) == 64
    assert code().known == (code().commit != "unknown" and not code().dirty)


def test_seeds_are_stable_and_distinct() -> None:
    # Fixed numbers: a change would silently change every data set made before.
    assert derive(7, "shard", 3) == derive(7, "shard", 3) == 1619420628568852017
    assert len({derive(7, "shard", i) for i in range(1000)}) == 1000
    assert stream(1, "a").random() != stream(1, "b").random()
    draws = [uniform(5, step) for step in range(2000)]
    assert all(0 <= d < 1 for d in draws)
    assert abs(sum(draws) / len(draws) - 0.5) < 0.03


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "manifest.json"
    files.write_json(target, {"a": 1})

    def refuse(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(StorageError, match="No space left"):
        files.write_json(target, {"a": 2})
    assert json.loads(target.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_events_carry_their_context_to_every_sink(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "events.jsonl")
    events = Events([sink], run="r").bind(stage="sft")
    events.metric("loss", 1.5, 3)
    events.progress("tokens", 1, 2)
    with pytest.raises(ValueError), events.span("work"):
        raise ValueError
    sink.close()
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [r["kind"] for r in rows] == ["metric", "span"]
    assert rows[0]["run"] == "r"
    assert rows[0]["stage"] == "sft"
    assert rows[1]["failed"] is True
