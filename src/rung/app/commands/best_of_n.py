"""`rung best-of-n`: should the large run draw several responses per instruction?"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rung.app.best_of_n import decision_of, view
from rung.app.runs import find_output
from rung.base.settings import validate
from rung.datagen.best_of_n import BestOfNRule

__all__ = ["best_of_n"]


def best_of_n(runs: Path, pilot: str, limits: dict[str, float], out: Console) -> None:
    """Print what the pilot's candidates say, and go or no-go with the numbers used; `limits` change the rule."""
    rule = validate(BestOfNRule, limits, "best-of-n")
    out.print(view(decision_of(find_output(runs, pilot), rule)))
