"""A recipe of toy stages and the means to run it in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pipeline_toys import CLEAN, FakeModels

from rung.pipeline.recipe import load
from rung.pipeline.runner import Options, RunResult, run

RECIPE = """run: toy
model: fake:m
stages:
  - pipeline_toys:Make: {name: made}
  - pipeline_toys:Copy: {data: made}
  - pipeline_toys:Steps: {data: copy}
"""


class Bench:
    """A folder with a recipe in it; `go` runs it with overrides."""

    def __init__(self, folder: Path) -> None:
        self.path, self.runs = folder / "r.yaml", folder / "runs"
        self.path.write_text(RECIPE)
        self.models = FakeModels()

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.runs / "toy"

    def go(self, *sets: str, rebuild: Sequence[str] = (), force: Sequence[str] = (), **options: Any) -> RunResult:
        """Run with clean code unless told otherwise."""
        chosen = Options(rebuild=frozenset(rebuild), force=frozenset(force), **{"code": CLEAN, **options})
        return run(load(self.path, sets=sets), self.runs, self.models, chosen)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A fresh one."""
    return Bench(tmp_path)


@pytest.fixture
def outcomes() -> Callable[[RunResult], list[str]]:
    """How each stage of a result ended."""
    return lambda result: [stage.outcome for stage in result.stages]


@pytest.fixture(scope="session")
def bench_at() -> type[Bench]:
    """Makes a bench in a folder of the test's choice."""
    return Bench


@pytest.fixture(autouse=True)
def without_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests kill processes, not the power, so waiting for the disk would only cost them time."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
