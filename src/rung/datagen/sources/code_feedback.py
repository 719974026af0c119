"""Code-Feedback (Zheng et al. 2024, arXiv 2402.14658): conversations about code over several turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.datagen.published import Published, dialogue, listed
from rung.records.types import Dialogue

__all__ = ["CodeFeedback"]


class CodeFeedback(Published):
    """Dialogues, as long as they are."""

    repository = "m-a-p/Code-Feedback"

    def record(self, row: Mapping[str, Any]) -> Dialogue:
        """See `Published`."""
        turns = [(turn["role"], turn["content"]) for turn in listed(row["messages"], "messages")]
        return dialogue(turns, self.repository, number=row.get("id"))
