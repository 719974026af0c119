"""Fixtures that tests of more than one room use."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import pytest


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Decode steps that take time until it is set: what happens during an answer does not race with its end."""
    batch = importlib.import_module("rung.engine.batch").Batch  # here, for most tests run without torch
    real, hurry = batch.step, threading.Event()

    def step(self: Any) -> Any:
        hurry.wait(0.1)
        return real(self)

    monkeypatch.setattr(batch, "step", step)
    return hurry
