"""Magicoder's OSS-Instruct (Wei et al. 2024, arXiv 2312.02120): problems made from snippets of code, with solutions.

Reads the evolved set too (`instruction`, `response`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.datagen.published import Published, dialogue
from rung.records.types import Dialogue

__all__ = ["Magicoder"]


class Magicoder(Published):
    """Dialogues of one question and its answer."""

    repository = "ise-uiuc/Magicoder-OSS-Instruct-75K"

    def record(self, row: Mapping[str, Any]) -> Dialogue:
        """See `Published`."""
        asked, answered = ("problem", "solution") if "problem" in row else ("instruction", "response")
        turns = [("user", row[asked]), ("assistant", row[answered])]
        return dialogue(turns, self.repository, str(row.get("lang", "")), seed=row.get("seed", ""))
