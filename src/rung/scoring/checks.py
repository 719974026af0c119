"""All checks of a test item against one answer: every one must pass.

A check is a verifier's name with its settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rung.base.errors import DataError
from rung.base.fingerprint import canonical
from rung.base.lookup import part
from rung.records.contracts import Item, Score, Trace
from rung.records.types import TestItem
from rung.scoring.verifier import Verifier

__all__ = ["Checked", "Checks", "as_item", "run_checks", "validate_checks"]


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of an item's checks on one answer, in the form that an `Answer` record stores.

    `abstained` means that no check failed and at least one could not judge; `passed` is then False.
    """

    passed: bool
    abstained: bool
    verdicts: Mapping[str, Mapping[str, Any]]


class Checks:
    """A scorer that runs what the item itself asks for under `reference["checks"]`."""

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """1.0 where every check passes, 0.0 where one fails, abstained where none fails but one cannot judge."""
        if len(items) != len(traces):
            raise DataError(f"{len(items)} items but {len(traces)} traces")
        return [self._score_one(item, trace) for item, trace in zip(items, traces, strict=True)]

    @staticmethod
    def _score_one(item: Item, trace: Trace) -> Score:
        outcome = _run(item, trace)
        failed = [f"{name}: {v['reason']}" for name, v in outcome.verdicts.items() if v["value"] != 1.0]
        parts = {name: float(v["value"]) for name, v in outcome.verdicts.items() if v["value"] is not None}
        value = None if outcome.abstained else float(outcome.passed)
        return Score(value, "; ".join(failed), parts, outcome.abstained)


def as_item(item: TestItem) -> Item:
    """A test item as scorers see it."""
    return Item(item.id, item.instruction, item.type, {"checks": item.checks, "answer": item.reference})


def run_checks(item: TestItem, text: str) -> Checked:
    """Every check of `item` on the answer `text`."""
    return _run(as_item(item), Trace(item.id, text))


def validate_checks(checks: Mapping[str, Mapping[str, Any]], place: str) -> None:
    """Build every verifier once.

    Raises:
        SettingsError: unknown verifier or setting, with `place`.
        DataError: no check at all.
    """
    if not checks:
        raise DataError("an item needs at least one check", place=place)
    for name, settings in checks.items():
        _build(name, canonical(settings), place)


def _run(item: Item, trace: Trace) -> Checked:
    checks = item.reference.get("checks")
    if not checks:
        raise DataError(f"item '{item.id}' has no checks", hint="give it `checks: {verifier: settings}`")
    verdicts: dict[str, Mapping[str, Any]] = {}
    for name, settings in checks.items():
        score = _build(name, canonical(settings), item.id).score([item], [trace])[0]
        verdicts[name] = {"value": score.value, "reason": score.reason, "abstained": score.abstained}
    failed = any(v["value"] == 0.0 for v in verdicts.values())
    abstained = not failed and any(v["abstained"] for v in verdicts.values())
    return Checked(not failed and not abstained, abstained, verdicts)


@lru_cache(maxsize=4096)
def _build(name: str, settings: str, place: str) -> Verifier[Any]:
    kind, validated = part("scoring.verifiers", {"kind": name, **json.loads(settings)}, place)
    built: Verifier[Any] = kind(validated)
    return built
