"""QC of a data output as stage figures: the same code for a pilot, a large run and a merge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.base.fingerprint import plain
from rung.datagen.qc import Thresholds, decide, figures
from rung.pipeline.stage import Verdict
from rung.records.manifest import Opened

__all__ = ["NOT_JUDGED", "data_figures", "data_verdict"]

NOT_JUDGED = "no critic of instructions was fit to gate, so none judged them"


def data_figures(output: Opened, thresholds: Thresholds, count: int) -> dict[str, Any]:
    """Figures and verdict recomputed from the records on disk, and how many of `count` are missing."""
    instructions, candidates = list(output.records("instruction")), list(output.records("candidate"))
    found = figures(instructions, candidates, list(output.records("sft")), thresholds)
    judged = any(instruction.critique is not None for instruction in instructions)
    advisory = {} if judged else {"min_instruction_acceptance": NOT_JUDGED}
    report = output.manifest.model.get("report", {})
    passed_guard = report.get("verdict") != "contaminated" or "sentinels" in report.get("overrides", ())
    verdict = decide(found, thresholds, advisory, passed_guard)
    rates = {
        name: {"count": rate.count, "total": rate.total, "value": rate.value}
        for name, rate in (
            ("pair_acceptance", found.pair_acceptance.rate),
            ("instruction_acceptance", found.instruction_acceptance.rate),
            ("limit", found.limit),
            ("runaway", found.runaway),
        )
    }
    missing = max(0, count - found.counts["kept"])
    return {"qc": plain(found), "rates": rates, "qc_verdict": plain(verdict), "wanted": count, "missing": missing}


def data_verdict(figures: Mapping[str, Any]) -> Verdict:
    """Passed when QC passed and nothing is missing; not decided when QC saw too few records."""
    found = figures["qc_verdict"]
    reasons = [failure["text"] for failure in found["failed"]]
    if figures["missing"]:
        kept = figures["wanted"] - figures["missing"]
        reasons.append(f"shortfall: {kept} of {figures['wanted']} records were kept before the attempt limit")
    return Verdict(not reasons, tuple(reasons), decided=found["decided"])
