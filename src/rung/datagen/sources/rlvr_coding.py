"""Coding problems whose answers are run, in the layout that verl and Eurus-2-RL-Data (arXiv 2502.01456) share.

A row has `prompt` (turns), `ability`, and `reward_model.ground_truth`: tests as JSON, here those that call a function
(`fn_name`, `inputs`, `outputs`). Problems that talk through standard input have no verifier here and are drops, as are
those of mathematics. `solution` or `trace`, where a row has one, becomes the reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rung.base.errors import DataError
from rung.datagen.published import Published, listed
from rung.records.types import TestItem, record_id

__all__ = ["RlvrCoding"]


class RlvrCoding(Published):
    """Test items whose check is the verifier `code`."""

    repository = "PRIME-RL/Eurus-2-RL-Data"

    def record(self, row: Mapping[str, Any]) -> TestItem:
        """See `Published`."""
        asked = [turn["content"] for turn in listed(row["prompt"], "prompt") if turn["role"] == "user"]
        truth = json.loads(row["reward_model"]["ground_truth"]) if row["ability"] == "code" else {}
        if not asked or not isinstance(truth, dict) or "fn_name" not in truth:
            raise DataError("no function is asked for: nothing here could run the answer")
        pairs = [[given, expected] for given, expected in zip(truth["inputs"], truth["outputs"], strict=True)]
        checks = {"code": {"problem": {"entry_point": truth["fn_name"], "pairs": pairs}}}
        name, reference = record_id(asked[-1]), str(row.get("solution") or row.get("trace") or "")
        return TestItem(name, asked[-1], "code", str(row["data_source"]), checks, reference)
