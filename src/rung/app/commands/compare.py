"""`rung compare`: paired statistics, and what moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rung.app import compare as comparing

__all__ = ["compare"]


def compare(runs: Path, targets: Sequence[str], out: Console) -> None:
    """Print the comparison of two or more targets, or of the conditions of one."""
    sides = [comparing.find_side(runs, target) for target in targets]
    out.print(comparing.compare(sides if len(sides) > 1 else comparing.conditions_of(sides[0])))
