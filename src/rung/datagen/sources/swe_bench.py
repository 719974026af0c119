"""SWE-bench (Jimenez et al. 2024, arXiv 2310.06770): issues of repositories with the patches that closed them.

For measuring: a corpus that is trained on must be kept clear of the split it is measured on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.datagen.published import Published, listed
from rung.records.types import RepairTask

__all__ = ["SweBench"]


class SweBench(Published):
    """Repair tasks."""

    repository = "princeton-nlp/SWE-bench"

    def record(self, row: Mapping[str, Any]) -> RepairTask:
        """See `Published`."""
        failing, passing = (listed(row[name], name) for name in ("FAIL_TO_PASS", "PASS_TO_PASS"))
        meta = {name: row[name] for name in ("hints_text", "created_at", "environment_setup_commit") if name in row}
        return RepairTask(
            row["instance_id"], row["repo"], row["base_commit"], row["problem_statement"], row["patch"],
            row["test_patch"], failing, passing, str(row.get("version", "")), meta,
        )  # fmt: skip
