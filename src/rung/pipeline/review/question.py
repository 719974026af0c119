"""The question: what is asked, and what the manifests of the run say about it.

Only what the run measured and decided goes in; records, sentinels' texts and anything else that a model wrote stay
out, so nothing a model wrote can speak to the reviewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rung.base.errors import DataError
from rung.base.fingerprint import canonical, plain
from rung.base.secrets import redact_all
from rung.base.settings import nearest
from rung.pipeline.review.settings import QuestionLimits
from rung.records.manifest import FILE_NAME, Manifest, open_manifest

__all__ = ["compose", "finished_stages"]

_SECTIONS = ("stage", "stage_version", "fingerprint", "outcome", "gate", "figures", "drops", "settings", "calibration",
             "degraded", "bypasses", "spend", "estimate", "seeds")  # fmt: skip
_FIRST_TO_GO = ("calibration", "settings", "figures", "gate", "drops", "degraded")


def finished_stages(folder: Path, names: Sequence[str] = ()) -> list[Manifest]:
    """Manifests of the finished stages of a run, oldest first; of `names` alone when there are any.

    Raises:
        DataError: one of `names` is not finished, or a manifest cannot be read.
    """
    found = [open_manifest(path.parent).manifest for path in sorted(folder.glob(f"*/{FILE_NAME}"))]
    known = [manifest.name for manifest in found]
    for name in names:
        if name not in known:
            raise DataError(f"no finished stage is called '{name}'", place=folder.name, hint=nearest(name, known))
    chosen = [manifest for manifest in found if not names or manifest.name in names]
    return sorted(chosen, key=lambda manifest: (manifest.started, manifest.name))


def compose(
    ask: Mapping[str, Any], run: str, manifests: Sequence[Manifest], answer_with: Mapping[str, str],
    limits: QuestionLimits,
) -> dict[str, Any]:  # fmt: skip
    """The question as JSON types, under its limit of characters and without the environment's secrets.

    Raises:
        DataError: what is asked is too long by itself.
    """
    stages = [_facts(manifest) for manifest in manifests]
    asked = {**ask, "run": run, "stages": stages, "answer_with": dict(answer_with), "rules": _RULES}
    for section in _FIRST_TO_GO:
        if len(canonical(asked)) <= limits.characters:
            break
        _leave_out(stages, section)
    if len(canonical(asked)) > limits.characters:
        raise DataError(
            f"the question has {len(canonical(asked))} characters, {limits.characters} are allowed",
            place="review.limits.characters",
            hint="ask about fewer stages, or raise the limit",
        )
    return dict(redact_all(asked))


_RULES = "Reply with one JSON object that has exactly the keys of answer_with, and with nothing around it."


def _facts(manifest: Manifest) -> dict[str, Any]:
    values = plain(manifest)
    counts = {name: sum(info.count for info in infos) for name, infos in manifest.shards.items()}
    return {
        "name": manifest.name,
        **{section: values[section] for section in _SECTIONS if values[section] not in ({}, [])},
        "records": counts,
        "commit": manifest.code.commit,
        "changed_source": manifest.code.dirty,
    }


def _leave_out(stages: Sequence[dict[str, Any]], section: str) -> None:
    """Largest first would be fairer and harder to foresee; the fixed order keeps equal runs' questions comparable."""
    for stage in stages:
        if section in stage:
            stage[section] = f"left out for length: {len(canonical(stage[section]))} characters"
