"""The Stack v2 (Lozhkov et al. 2024, arXiv 2402.19173): files of public repositories with their detected licences.

The hub's rows name their text by `blob_id` and do not hold it: texts come from Software Heritage under its terms. Rows
are read with the text in `content` (also `text`), as its download script writes them; others are drops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.base.errors import DataError
from rung.datagen.published import Published
from rung.records.types import Document, record_id

__all__ = ["TheStackV2"]


class TheStackV2(Published):
    """Documents. What no licence was found in has none; vendored and generated files say so in `meta`."""

    repository = "bigcode/the-stack-v2-dedup"

    def record(self, row: Mapping[str, Any]) -> Document:
        """See `Published`."""
        text = row.get("content", row.get("text"))
        if not isinstance(text, str):
            raise DataError("the row has no content: fetch it from Software Heritage by its blob_id")
        licence = " OR ".join(row.get("detected_licenses") or ())
        kept = ("blob_id", "path", "repo_name", "revision_id", "license_type", "is_vendor", "is_generated")
        meta = {name: row[name] for name in kept if name in row}
        return Document(record_id(text), text, self.repository, licence, str(row["language"]).lower(), meta)
