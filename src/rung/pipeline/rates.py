"""What a unit of a stage's work cost the last time: the basis of estimates. Measured, never guessed."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from pathlib import Path

from rung.base.files import read_json, write_json
from rung.base.fingerprint import content_hash
from rung.pipeline.budget import Spend
from rung.pipeline.ledger import utc_now
from rung.pipeline.stage import Estimate

__all__ = ["Rates"]


class Rates:
    """Remembers seconds and tokens per unit, by kind of stage, model and machine.

    Args:
        folder: where it is kept from run to run; None: nothing is kept and nothing known.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def remember(self, kind: str, model: str, units: float | None, spent: Spend) -> None:
        """A stage of `kind` with `model` (an identity, may be empty) did `units` of work for `spent`."""
        if self._folder is not None and units and spent.seconds > 0:
            rate = {"seconds": spent.seconds / units, "tokens": spent.tokens / units, "when": utc_now()[:10]}
            write_json(self._path(self._folder, kind, model), rate)

    def expected(self, kind: str, model: str, units: float | None, own: Estimate) -> Estimate:
        """`own` when it says how long; else what so much work took the last time."""
        if own.seconds or units is None:
            return own
        rate = self._rate(kind, model)
        if rate is None:
            return own if own.tokens or own.money else replace(own, basis="never run on this machine with this model")
        basis = f"{kind} on this machine, {rate['when']}"
        return replace(own, seconds=float(rate["seconds"]) * units, tokens=float(rate["tokens"]) * units, basis=basis)

    def _rate(self, kind: str, model: str) -> dict[str, str] | None:
        if self._folder is None:
            return None
        try:
            found: dict[str, str] = read_json(self._path(self._folder, kind, model))
        except (OSError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        return found

    @staticmethod
    def _path(folder: Path, kind: str, model: str) -> Path:
        return folder / f"{content_hash([kind, model, platform.node(), os.cpu_count()])}.json"
