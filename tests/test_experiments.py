"""The tables of experiments are what their figures say: nobody wrote into them by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent.parent / "docs" / "results"
# experiments whose page is made from their JSON alone
NAMES = (
    "best_of_n",
    "cache_memory",
    "caps",
    "downstream",
    "executors",
    "grpo_real",
    "grpo_tiny",
    "human_eval",
    "kill_resume",
    "memory_parts",
    "parity",
    "providers",
    "reward_holds",
    "reward_models",
    "rlhf_two",
    "serve_load",
    "stream_memory",
    "sizes",
    "stories",
    "story_table",
    "z3_training",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_table_is_made_from_its_committed_figures(name: str) -> None:
    figures = json.loads((RESULTS / f"{name}.json").read_text())
    page = importlib.import_module(f"experiments.{name}").page
    assert page(figures) == (RESULTS / f"{name}.md").read_text()


def test_a_difference_that_is_there_is_shown() -> None:
    page = importlib.import_module("experiments.executors").page
    figures = json.loads((RESULTS / "executors.json").read_text())
    figures["arms"]["two workers"]["hashes"] = {}
    assert "DIFFERENT" in page(figures)
