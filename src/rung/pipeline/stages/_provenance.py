"""What every training record carries about its making (spec item 86)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.base.fingerprint import code, plain
from rung.pipeline.stage import Context

__all__ = ["record_metadata"]


def record_metadata(context: Context, facts: Mapping[str, Any], settings: Any) -> Mapping[str, Any]:
    """Code, model (`facts` as a manifest has them), loader and generation settings; the time is the manifest's, so that
    records are reproducible."""
    source, report = code(), facts["report"]
    return {
        "artifact_type": "sft",
        "stage": context.name,
        "run": context.run,
        "git_commit": source.commit,
        "git_branch": source.branch,
        "git_dirty": source.dirty,
        "source_hash": source.source_hash,
        "loader_version": str(report["loader_version"]),
        "model_name": facts["source"] or report["model_name"],
        "model_content": facts["content_id"],
        "precision": facts["precision"],
        "template_disabled": report["template_disabled"],
        "add_special_tokens": report["add_special_tokens"],
        "guard_verdict": report["verdict"],
        "generation": {"instructions": plain(settings.instructions), "responses": plain(settings.responses)},
    }
