"""Gate rules as data: a figure, a comparison exactly as written, a limit, and how many samples it takes to decide."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rung.pipeline.stage import Verdict

__all__ = ["Threshold", "evaluate", "figure_at"]

Comparison = Literal["<", "<=", ">", ">=", "=="]

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """A rule that passes when `figure comparison limit` holds.

    `figure` and `samples` are dotted paths into the figures; `samples` leads to the number of observations behind the
    figure, and under `min_samples` of them nothing is decided.
    """

    name: str
    figure: str
    comparison: Comparison
    limit: float
    min_samples: int = 0
    samples: str = ""

    def __post_init__(self) -> None:
        if self.comparison not in _COMPARE:
            raise ValueError(f"threshold '{self.name}': no comparison '{self.comparison}', one of {list(_COMPARE)}")
        if self.min_samples and not self.samples:
            raise ValueError(f"threshold '{self.name}': min_samples needs `samples`, the figure that counts them")


def figure_at(figures: Mapping[str, Any], path: str) -> Any:
    """The figure at a dotted path; None when a step of it is missing."""
    current: Any = figures
    for part in path.split("."):
        if not isinstance(current, Mapping) or part not in current:
            return None
        current = current[part]
    return current


def evaluate(thresholds: Sequence[Threshold], figures: Mapping[str, Any]) -> Verdict:
    """Every rule against the figures; one reason per rule that does not hold.

    A figure that is missing or not a finite number fails its rule: nothing passes by having no value. The verdict is
    undecided when no rule failed and at least one had too few samples.
    """
    failures, undecided = [], []
    for rule in thresholds:
        count = _number(figure_at(figures, rule.samples)) if rule.samples else None
        value = _number(figure_at(figures, rule.figure))
        if rule.min_samples and (count is None or count < rule.min_samples):
            shown = "no" if count is None else f"{count:g}"
            undecided.append(f"{rule.name}: {shown} samples, {rule.min_samples} are needed to decide")
        elif value is None:
            failures.append(f"{rule.name}: {rule.figure} has no value, it must be {rule.comparison} {rule.limit:g}")
        elif not _COMPARE[rule.comparison](value, rule.limit):
            failures.append(f"{rule.name}: {rule.figure} is {value:.6g}, it must be {rule.comparison} {rule.limit:g}")
    return Verdict(not failures and not undecided, (*failures, *undecided), decided=bool(failures) or not undecided)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None
