"""What every training record carries about its making (spec item 86)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.base.fingerprint import code, plain
from rung.pipeline.stage import Context

__all__ = ["record_metadata"]


def record_metadata(context: Context, loaded: Any, settings: Any) -> Mapping[str, Any]:
    """Code, model, loader and generation settings; the time is the manifest's, so that records are reproducible."""
    source = code()
    return {
        "artifact_type": "sft",
        "stage": context.name,
        "run": context.run,
        "git_commit": source.commit,
        "git_branch": source.branch,
        "git_dirty": source.dirty,
        "source_hash": source.source_hash,
        "loader_version": str(loaded.report.loader_version),
        "model_name": loaded.source,
        "model_content": loaded.content_id,
        "precision": loaded.precision,
        "template_disabled": loaded.report.template_disabled,
        "add_special_tokens": loaded.report.add_special_tokens,
        "guard_verdict": loaded.report.verdict,
        "generation": {"instructions": plain(settings.instructions), "responses": plain(settings.responses)},
    }
