"""Quality figures against their limits, for people: which way each limit points, and by how much it was met.

Verdicts are those of `rung.datagen.qc`; this module only lays the figures that a manifest holds beside the thresholds
that its settings hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.app.reports.shapes import Held
from rung.base.settings import validate
from rung.datagen.qc import Thresholds

__all__ = ["quality_rows"]


def quality_rows(figures: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Held, ...]:
    """Rows for the figures of quality control; a figure that nothing was counted for has none.

    Args:
        figures: `figures["qc"]` of a manifest.
        settings: the stage's settings; their `thresholds` are used, the defaults where there are none.
    """
    limits = validate(Thresholds, settings.get("thresholds"), "thresholds")
    shares = [
        ("runaway rate", _share(figures, "runaway"), limits.max_runaway_rate),
        ("token-limit rate", _share(figures, "limit"), limits.max_limit_rate),
        ("median response tokens", _number(figures, "tokens", "median"), limits.max_median_tokens),
    ]
    rows = [Held(name, v, limit, v < limit, True) for name, v, limit in shares if v is not None]
    for name, key, most in (
        ("delimiter leaks", "leak_ids", limits.max_leaks),
        ("incomplete answers", "incomplete_ids", limits.max_incomplete),
        ("repeated instructions", "repeat_ids", limits.max_repeats),
    ):
        if isinstance(figures.get(key), list):
            count = len(figures[key])
            rows.append(Held(name, count, most, count <= most, True))
    for name, key, least in (
        ("instruction acceptance", "instruction_acceptance", limits.min_instruction_acceptance),
        ("pair acceptance", "pair_acceptance", limits.min_pair_acceptance),
    ):
        share = _acceptance(figures.get(key))
        if share is not None:
            rows.append(Held(name, share, least, share >= least, False))
    return tuple(rows)


def _share(figures: Mapping[str, Any], key: str) -> float | None:
    count, total = _number(figures, key, "count"), _number(figures, key, "total")
    return count / total if count is not None and total else None


def _acceptance(values: Any) -> float | None:
    if not isinstance(values, Mapping):
        return None
    good, bad, unsure = (_number(values, key) for key in ("good", "bad", "low_confidence"))
    if good is None or bad is None or unsure is None or not good + bad + unsure:
        return None
    return good / (good + bad + unsure)


def _number(values: Mapping[str, Any], *path: str) -> float | None:
    current: Any = values
    for key in path:
        current = current.get(key) if isinstance(current, Mapping) else None
    return float(current) if isinstance(current, (int, float)) and not isinstance(current, bool) else None
