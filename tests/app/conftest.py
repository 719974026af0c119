"""The fixture the application's tests share: a runs folder with a finished run."""

from __future__ import annotations

from pathlib import Path

import pytest
from app_finished_run import write_run


@pytest.fixture
def demo_runs(tmp_path: Path) -> Path:
    """A runs folder with one finished run called demo."""
    write_run(tmp_path / "runs")
    return tmp_path / "runs"
