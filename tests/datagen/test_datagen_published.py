"""Published data sets: each layout from a small file of it, and a new one in a few lines (items 410, 411, 415)."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from rung.base.errors import SettingsError
from rung.base.lookup import part
from rung.datagen.corpus_source import Found
from rung.datagen.published import Published, Record, dialogue, text_of
from rung.records.types import Dialogue, Document, Drop, Message, RepairTask, TestItem

RATED = {"rating": "4", "rationale": "good"}
ROWS: dict[str, list[dict[str, Any]]] = {
    "the_stack_v2": [
        {"blob_id": "ab", "path": "/a/b.py", "repo_name": "o/r", "detected_licenses": ["MIT", "BSD-3-Clause"],
         "license_type": "permissive", "language": "Python", "is_vendor": False, "content": "x = 1\n"},
        {"blob_id": "cd", "path": "/c.py", "repo_name": "o/r", "detected_licenses": [], "language": "Python"},
    ],
    "magicoder": [
        {"lang": "python", "raw_index": 1, "index": 2, "seed": "def f", "problem": "Add.", "solution": "a + b"},
        {"lang": "python", "problem": "", "solution": "nothing"},
    ],
    "code_feedback": [
        {"id": 5, "messages": [{"role": "user", "content": "Sort it"}, {"role": "assistant", "content": "sorted(x)"},
                               {"role": "user", "content": "Down"}, {"role": "assistant", "content": "[::-1]"}]},
        {"id": 6, "messages": [{"role": "human", "content": "?"}]},
    ],
    "code_ultra_feedback_best": [
        {"instruction": "Write f", "preference": "code-readability",
         "responses": [{"model": "a", "response": "bad"}, {"model": "b", "response": "better"}],
         "annotations": [{"model": "a", **RATED, "rating": "2"}, {"model": "b", **RATED}]},
        {"instruction": "Write g", "preference": "style", "responses": [{"model": "a", "response": "r"}],
         "annotations": [{"model": "a", **RATED, "rating": "N/A"}]},
    ],
    "rlvr_coding": [
        {"data_source": "taco", "ability": "code", "solution": "def add(a, b):\n    return a + b\n",
         "prompt": [{"role": "system", "content": "think"}, {"role": "user", "content": "Write add"}],
         "reward_model": {"style": "rule", "ground_truth": json.dumps(
             {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]})}, "extra_info": {"index": 1}},
        {"data_source": "apps", "ability": "code", "prompt": [{"role": "user", "content": "Read two numbers"}],
         "reward_model": {"ground_truth": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]})}},
    ],
    "swe_bench": [
        {"repo": "o/r", "instance_id": "o__r-1", "base_commit": "c0ffee", "patch": "diff --git", "test_patch": "diff",
         "problem_statement": "It breaks", "hints_text": "", "created_at": "2024", "version": "1.0",
         "FAIL_TO_PASS": "[\"t::a\"]", "PASS_TO_PASS": "[]", "environment_setup_commit": "d00d"},
        {"repo": "o/r", "instance_id": "o__r-2", "FAIL_TO_PASS": "not json", "PASS_TO_PASS": "[]"},
    ],
}  # fmt: skip
FIRST: dict[str, Any] = {
    "the_stack_v2": lambda r: (r.text, r.licence, r.language, r.meta["repo_name"]) == (
        "x = 1\n", "MIT OR BSD-3-Clause", "python", "o/r"),
    "magicoder": lambda r: (r.messages, r.language) == (
        (Message("user", "Add."), Message("assistant", "a + b")), "python"),
    "code_feedback": lambda r: [m.content for m in r.messages] == ["Sort it", "sorted(x)", "Down", "[::-1]"],
    "code_ultra_feedback_best": lambda r: r.messages[1].content == "better" and r.meta["rating"] == 4,
    "rlvr_coding": lambda r: (r.instruction, r.checks["code"]["problem"]) == (
        "Write add", {"entry_point": "add", "pairs": [[[1, 2], 3]]}),
    "swe_bench": lambda r: (r.id, r.base_commit, r.fail_to_pass, r.pass_to_pass) == ("o__r-1", "c0ffee", ("t::a",), ()),
}  # fmt: skip
TYPES = {
    "the_stack_v2": Document, "magicoder": Dialogue, "code_feedback": Dialogue, "code_ultra_feedback_best": Dialogue,
    "rlvr_coding": TestItem, "swe_bench": RepairTask,
}  # fmt: skip


def opened(name: str, path: Path, **settings: Any) -> Published:
    kind, own = part("datagen.sources", {"kind": name, "path": str(path), **settings})
    made: Published = kind(own)
    return made


def as_file(folder: Path, name: str, form: str) -> Path:
    path = folder / f"{name}.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(ROWS[name][:1]), path)
    return path


@pytest.mark.parametrize("name", sorted(ROWS))
def test_each_layout_gives_typed_records_and_names_rows_that_are_not_of_it(name: str, tmp_path: Path) -> None:
    records = list(opened(name, as_file(tmp_path, name, "jsonl")).records())
    assert type(records[0]) is TYPES[name]
    assert FIRST[name](records[0]), records[0]
    assert isinstance(records[1], Drop)
    assert (records[1].id, records[1].reason) == (f"{name}.jsonl:2", "other_layout")
    assert records[1].detail["error"]
    stored = list(opened(name, as_file(tmp_path, name, "parquet")).records())
    assert stored == records[:1], "Parquet, as the hub has it, gives the same record"


@pytest.mark.parametrize("name", sorted(ROWS))
def test_each_is_a_source_of_texts(name: str, tmp_path: Path) -> None:
    source = opened(name, as_file(tmp_path, name, "jsonl"))
    (piece,) = source.pieces()
    found = [one for one in piece.read() if isinstance(one, Found)]
    record = next(source.records())
    assert [one.text for one in found] == [text_of(record)]  # type: ignore[arg-type]
    assert list(opened(name, tmp_path, limit=1).records()) == [record]


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_loader_is_short(name: str) -> None:
    kind, _ = part("datagen.sources", name)
    assert len(inspect.getsource(kind).splitlines()) < 30


class Riddles(Published):
    """A new data set, whole."""

    repository = "someone/riddles"

    def record(self, row: Mapping[str, Any]) -> Record:
        return dialogue([("user", row["riddle"]), ("assistant", row["answer"])], self.repository)


def test_a_new_data_set_is_a_few_lines(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("riddle,answer\nWhat has keys?,A piano\n,nothing\n")
    assert len(inspect.getsource(Riddles).splitlines()) < 30
    first, second = Riddles(Riddles.Settings(path=tmp_path / "r.csv")).records()
    assert isinstance(first, Dialogue)
    assert text_of(first) == "What has keys?\n\nA piano"
    assert isinstance(second, Drop)


def test_the_hub_is_streamed_under_the_revision_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load_dataset(*arguments: Any, **keywords: Any) -> Any:
        """A stream that never ends: only what is wanted may be read."""
        asked.append((arguments, keywords))
        return ({"problem": f"p{n}", "solution": "s"} for n in iter(int, 1))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    kind, own = part("datagen.sources", {"kind": "magicoder", "revision": "abc", "limit": 3})
    assert len(list(kind(own).records())) == 3
    assert asked == [
        (("ise-uiuc/Magicoder-OSS-Instruct-75K", None), {"split": "train", "revision": "abc", "streaming": True})
    ]
    other = kind(own.model_copy(update={"revision": "def"}))
    assert [p.content for p in kind(own).pieces()] != [p.content for p in other.pieces()]


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(SettingsError, match="unknown key 'splt'"):
        part("datagen.sources", {"kind": "swe_bench", "splt": "test"})
    with pytest.raises(SettingsError, match="no subset"):
        part("datagen.sources", {"kind": "swe_bench", "path": "x", "subset": "y"})
