"""Believing a finished output: nothing in its manifest is taken on trust.

Hashes are recomputed from the files, figures and verdict from the records, and every other field is held against the
seal that the ledger took when the manifest was written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.base.errors import DataError, GateFailed
from rung.base.fingerprint import plain
from rung.pipeline.ledger import seal_of
from rung.pipeline.outputs import not_finite
from rung.pipeline.stage import Stage, Verdict
from rung.records.manifest import FILE_NAME, Manifest, Opened, open_manifest

__all__ = [
    "CODE_BYPASS",
    "Checked",
    "check_output",
    "code_bypassed",
    "disagreements",
    "gate_bypass",
    "gate_failure",
    "recompute",
]

CODE_BYPASS = "code: "


@dataclass(frozen=True, slots=True)
class Checked:
    """A finished output that holds what its manifest says, and whether its gate lets others use it."""

    opened: Opened
    verdict: Verdict
    usable: bool


def code_bypassed(bypasses: Sequence[str]) -> bool:
    """Whether unknown or changed source was let past on purpose, here or upstream."""
    return any(text.startswith(CODE_BYPASS) for text in bypasses)


def gate_bypass(stage: str) -> str:
    """How the bypass of a stage's gate begins in a manifest."""
    return f"gate of {stage}: "


def gate_failure(stage: str, verdict: Verdict) -> GateFailed:
    """The ending of a stage whose gate said no, with the command that goes past it on purpose."""
    what = "failed" if verdict.decided else "refused to decide"
    return GateFailed(
        f"the gate {what}: {'; '.join(verdict.reasons) or 'no reason given'}",
        place=stage,
        hint=f"change what it names and `--rebuild {stage}`, or go on all the same with `--force {stage}` (recorded)",
    )


def recompute(stage: Stage, opened: Opened, name: str) -> tuple[dict[str, Any], Verdict]:
    """Figures and verdict of an output, from its records.

    Raises:
        DataError: a figure is not a finite number, so that it could be neither written nor compared.
    """
    figures = dict(plain(stage.figures(opened)))
    if bad := not_finite(figures):
        raise DataError(f"figure '{bad}' is not a finite number", place=name)
    return figures, stage.gate(figures)


def check_output(folder: Path, name: str, stage: Stage, seal: Mapping[str, str]) -> Checked:
    """Open a finished output and check all of it.

    Raises:
        DataError: a file or a field is not what it was when the stage ended; both are named.
        GateFailed: the recorded verdict or outcome is not what the records give, or its code is unknown.
    """
    opened = open_manifest(folder)
    opened.verify()
    manifest, hint = opened.manifest, f"make it again: --rebuild {name}"
    figures, verdict = recompute(stage, opened, name)
    for text in disagreements({key: manifest.figures.get(key) for key in figures}, figures, "figures"):
        raise DataError(f"the manifest does not agree with the records: {text}", place=f"{name}/{FILE_NAME}", hint=hint)
    for text in disagreements(manifest.gate, plain(verdict), "gate"):
        raise GateFailed(
            f"the recorded verdict is not what the records give: {text}", place=f"{name}/{FILE_NAME}", hint=hint
        )
    _check_seal(manifest, name, seal, hint)
    forced = any(text.startswith(gate_bypass(name)) for text in manifest.bypasses)
    if not manifest.code.known and not code_bypassed(manifest.bypasses):
        raise GateFailed("code: it was made by unknown or changed source", place=f"{name}/{FILE_NAME}", hint=hint)
    return Checked(opened, verdict, verdict.passed or forced)


def disagreements(recorded: Any, recomputed: Any, path: str) -> list[str]:
    """Leaves that differ, as `path: recorded R, recomputed C`; floats may differ in the ninth digit, because a sum
    in another library version may."""
    if isinstance(recorded, dict) and isinstance(recomputed, dict):
        rows = []
        for key in sorted(recorded.keys() | recomputed.keys()):
            rows += disagreements(recorded.get(key), recomputed.get(key), f"{path}.{key}")
        return rows
    if isinstance(recorded, list) and isinstance(recomputed, list) and len(recorded) == len(recomputed):
        pairs = zip(recorded, recomputed, strict=True)
        return [row for index, (a, b) in enumerate(pairs) for row in disagreements(a, b, f"{path}.{index}")]
    if isinstance(recorded, float) and isinstance(recomputed, (int, float)) and not isinstance(recomputed, bool):
        same = math.isclose(recorded, recomputed, rel_tol=1e-9, abs_tol=1e-12)
    else:
        same = recorded == recomputed and type(recorded) is type(recomputed)
    return [] if same else [f"{path}: recorded {recorded!r:.80}, recomputed {recomputed!r:.80}"]


def _check_seal(manifest: Manifest, name: str, seal: Mapping[str, str], hint: str) -> None:
    place = f"{name}/{FILE_NAME}"
    if not seal:
        raise DataError("the run's ledger knows nothing of this manifest", place=place, hint=hint)
    now = seal_of(manifest)
    for field in sorted(now.keys() | seal.keys()):
        if now.get(field) != seal.get(field):
            raise DataError(f"'{field}' was changed after the stage ended", place=place, hint=hint)
