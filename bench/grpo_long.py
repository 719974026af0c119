"""One step of GRPO against TRL with prompts of 512 tokens: the other case of `bench.grpo`, apart for its length."""

from __future__ import annotations

from pathlib import Path

from bench.grpo import measured

__all__ = ["run"]


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure and write into `bench_grpo.json`, return one line."""
    return measured(results_folder, quick, "prompts of 512")
