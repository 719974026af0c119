"""CodeUltraFeedback (Weyssow et al. 2024, arXiv 2403.09032) as demonstrations: each instruction with its best answer.

The answers with all their ratings are a labelled set (`rung.datagen.labelled.code_ultra_feedback`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.base.errors import DataError
from rung.datagen.preference_labels import from_code_ultra_feedback
from rung.datagen.published import Published, dialogue
from rung.records.types import Dialogue

__all__ = ["CodeUltraFeedbackBest"]


class CodeUltraFeedbackBest(Published):
    """Dialogues; of equal ratings the first one counts, and an instruction without any rating is a drop."""

    repository = "coseal/CodeUltraFeedback"

    def record(self, row: Mapping[str, Any]) -> Dialogue:
        """See `Published`."""
        rated = [(label.value, one) for one in from_code_ultra_feedback(row) for label in one.labels.values()]
        known = [(value, one) for value, one in rated if value is not None]
        if not known:
            raise DataError("no answer is rated")
        rating, best = max(known, key=lambda pair: pair[0])
        turns = [("user", best.instruction), ("assistant", best.response)]
        return dialogue(turns, self.repository, rating=rating, author=best.author, preference=row["preference"])
