"""The comparison with llama.cpp: both are asked the same, and where there is no binding that is a result too."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import llama_cpp

from rung.base.errors import MissingDependency, ModelError
from rung.models.load import load

FAKE = Path(__file__).parent / "fake_llama"


@pytest.fixture
def fake_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The running interpreter, with a binding that stands in."""
    monkeypatch.setenv(llama_cpp.PYTHON, sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(FAKE))


@pytest.fixture
def worker(fake_interpreter: None) -> Iterator[llama_cpp.Worker]:
    """Started there."""
    with tempfile.TemporaryFile() as log:
        started = llama_cpp.Worker(sys.executable, log)
        yield started
        started.close()


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A file to load."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def continued(prompt: list[int], count: int, seed: int = 0) -> list[int]:
    """What the stand-in says after `prompt`."""
    text = list(prompt)
    for _ in range(count):
        text.append((sum(text) + seed) % 90)
    return text[len(prompt) :]


def test_every_sequence_is_continued_from_its_own_prompt(worker: llama_cpp.Worker, packed: Path) -> None:
    prompts = [[5, 6, 7], [1], [40, 2]]
    worker.ask("load", path=str(packed), prompts=prompts, num_new=4, threads=1)
    for _ in range(2):  # the second time from an empty cache again
        assert worker.ask("decode", top_p=0.0, seed=9)["token_ids"] == [continued(p, 4) for p in prompts]
    drawn = worker.ask("decode", top_p=0.9, seed=9)["token_ids"]
    assert drawn == [continued(p, 4, 9 + number) for number, p in enumerate(prompts)]


def test_what_llama_cpp_prints_is_no_answer_and_what_it_cannot_do_is_said(
    worker: llama_cpp.Worker, tmp_path: Path
) -> None:
    assert worker.hello == {"version": "0.0", "system": "FAKE = 1"}
    with pytest.raises(ModelError, match="cannot load"):
        worker.ask("load", path=str(tmp_path / "missing"), prompts=[[1]], num_new=1, threads=1)
    assert worker.ask("hello") == worker.hello


def test_a_process_that_dies_is_an_error_with_its_last_words(worker: llama_cpp.Worker, packed: Path) -> None:
    worker.ask("load", path=str(packed), prompts=[[1]], num_new=1, threads=1)
    with pytest.raises(ModelError, match="AssertionError"):
        worker.ask("decode", top_p=2.0, seed=0)


@pytest.mark.usefixtures("fake_interpreter")
def test_both_get_the_same_prompts_and_every_row_has_both_speeds(
    tmp_path: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[int, list[Any]] = {}
    loaded = load("tiny:llama", precision="float32", clean=False, strict=False, cache=tmp_path)
    monkeypatch.setattr(llama_cpp, "load", lambda source, **_: loaded)
    monkeypatch.setattr(llama_cpp, "_packed", lambda: packed)
    complete, ask = llama_cpp.Engine.complete, llama_cpp.Worker.ask

    def completing(engine: Any, requests: Any) -> Any:
        asked.setdefault(len(requests), []).append([list(r.token_ids) for r in requests])
        return complete(engine, requests)

    def asking(worker: Any, act: str, **details: Any) -> Any:
        if act == "load":
            asked.setdefault(len(details["prompts"]), []).append([list(p) for p in details["prompts"]])
        return ask(worker, act, **details)

    monkeypatch.setattr(llama_cpp.Engine, "complete", completing)
    monkeypatch.setattr(llama_cpp.Worker, "ask", asking)
    line = llama_cpp.run(tmp_path, quick=True)
    report = json.loads((tmp_path / "bench_llama_cpp.json").read_text())
    assert set(asked) == {1, 4}
    assert all(prompts == same[0] for same in asked.values() for prompts in same)
    rows = report["results"]
    assert {(row["file"], row["sequences"], row["sampler"]) for row in rows} == {
        (file, sequences, sampler)
        for file in ("model.gguf", "the same as float32")
        for sequences in (1, 4)
        for sampler in ("top-p 0.9", "greedy")
    }
    assert all(row["ours_median"] > 0 < row["theirs_median"] for row in rows)
    assert [row["same_greedy_tokens"] < 1 for row in rows if row["sampler"] == "greedy"] == [True] * 4
    assert "4 sequences greedy" in line


def test_without_a_binding_the_result_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise ImportError('nobody compiled it')\n")
    monkeypatch.setenv(llama_cpp.PYTHON, sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "nobody compiled it" in llama_cpp.run(tmp_path, quick=True)
    report = json.loads((tmp_path / "bench_llama_cpp.json").read_text())
    assert report["results"] == "not available"
    assert "nobody compiled it" in report["reason"]


def test_an_interpreter_that_is_not_there_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(llama_cpp.PYTHON, str(tmp_path / "python"))
    line = llama_cpp.run(tmp_path, quick=True)
    assert line.startswith("not available")
    assert "the interpreter does not start" in line


def test_agreement_ends_at_the_first_other_token() -> None:
    assert llama_cpp.agreeing([[1, 2, 3, 4], [5, 6]], [[1, 2, 9, 4], [5, 6]]) == 4 / 6
    assert llama_cpp.agreeing([[1]], [[2]]) == 0


def test_a_model_that_is_not_installed_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="packaged model"):
        llama_cpp._packed()
