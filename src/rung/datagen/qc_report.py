"""Quality control in words and tables: the summary file, pilots side by side, pools, the cleaning audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rung.base.fingerprint import differing, plain
from rung.base.seeds import stream
from rung.datagen.qc import Acceptance, QcFigures, QcVerdict, Rate, Thresholds
from rung.datagen.wording import fold
from rung.records.types import Candidate, Instruction

__all__ = [
    "CleaningRow",
    "Pilot",
    "PilotTable",
    "PoolEffect",
    "audit_cleaning",
    "compare_pilots",
    "pool_effect",
    "rates",
    "summary",
]


def rates(found: QcFigures) -> dict[str, Rate]:
    """Every rate by name."""
    return {
        "instruction_acceptance": found.instruction_acceptance.rate,
        "pair_acceptance": found.pair_acceptance.rate,
        "token_limit": found.limit,
        "runaway": found.runaway,
        "runaway_pattern": found.runaway_pattern,
        "runaway_too_long": found.runaway_too_long,
        "runaway_before_cleaning": found.runaway_before_cleaning,
        "runaway_kept": found.runaway_kept,
        "delimiter_leakage": Rate(len(found.leak_ids), found.counts["kept"]),
        "incomplete": Rate(len(found.incomplete_ids), found.counts["kept"]),
        "repeats": Rate(len(found.repeat_ids), found.counts["kept"]),
    }


def summary(found: QcFigures, thresholds: Thresholds, verdict: QcVerdict) -> dict[str, Any]:
    """The content of `qc_summary.json`: counts, acceptance, tokens, margins, thresholds, rates, verdict, reasons."""
    return {
        "counts": dict(found.counts),
        "acceptance": {
            "instructions": _acceptance(found.instruction_acceptance),
            "pairs": _acceptance(found.pair_acceptance),
        },
        "token_stats": plain(found.tokens),
        "word_stats": plain(found.words),
        "margins": plain(found.margins),
        "rates": {name: {**plain(rate), "value": rate.value} for name, rate in rates(found).items()},
        "by_type": plain(found.types),
        "decisions": dict(found.decisions),
        "flags": dict(found.flags),
        "offending": {
            "delimiter_leakage": list(found.leak_ids),
            "incomplete": list(found.incomplete_ids),
            "repeats": list(found.repeat_ids),
            "mismatched": list(found.mismatched_ids),
        },
        "thresholds": plain(thresholds),
        "advisory": dict(verdict.advisory),
        "decided": verdict.decided,
        "thresholds_passed": verdict.passed,
        "failed_reasons": [plain(failure) for failure in verdict.failed],
    }


def _acceptance(acceptance: Acceptance) -> dict[str, Any]:
    return {**plain(acceptance), "judged": acceptance.rate.total, "rate": acceptance.rate.value}


@dataclass(frozen=True, slots=True)
class Pilot:
    """One pilot as its manifest tells it; `summary` is that of this module, recomputed or stored."""

    name: str
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    cost: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PilotTable:
    """Pilots in columns. `rows` are (what, one text per pilot); `changed` says for each pilot after the first which
    settings differ from the one before; `moved` which thresholds went from failed to met ("now met") or back."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    changed: Mapping[str, tuple[str, ...]]
    moved: Mapping[str, tuple[str, ...]]


def compare_pilots(pilots: Sequence[Pilot]) -> PilotTable:
    """Settings, figures, verdict and cost of pilots side by side, and what moved from one to the next."""
    names = list(dict.fromkeys(name for pilot in pilots for name in pilot.summary["rates"]))
    rows = [(name, tuple(_percent(pilot.summary["rates"].get(name)) for pilot in pilots)) for name in names]
    rows += [
        ("kept", tuple(str(pilot.summary["counts"]["kept"]) for pilot in pilots)),
        ("median_tokens", tuple(f"{pilot.summary['token_stats']['median']:g}" for pilot in pilots)),
        ("verdict", tuple("pass" if pilot.summary["thresholds_passed"] else "fail" for pilot in pilots)),
    ]
    costs = dict.fromkeys(name for pilot in pilots for name in pilot.cost)
    rows += [(f"cost.{name}", tuple(f"{pilot.cost.get(name, 0):g}" for pilot in pilots)) for name in costs]
    changed, moved = {}, {}
    for old, new in pairwise(pilots):
        changed[new.name] = tuple(differing(dict(old.settings), dict(new.settings)))
        before, after = _failed(old), _failed(new)
        moved[new.name] = tuple(
            f"{name}: {'now met' if name in before else 'now failed'}" for name in sorted(before ^ after)
        )
    return PilotTable(tuple(pilot.name for pilot in pilots), tuple(rows), changed, moved)


def _failed(pilot: Pilot) -> set[str]:
    return {failure["threshold"] for failure in pilot.summary["failed_reasons"]}


def _percent(rate: Mapping[str, Any] | None) -> str:
    return "-" if rate is None or rate["value"] is None else f"{rate['value']:.1%} ({rate['count']}/{rate['total']})"


@dataclass(frozen=True, slots=True)
class PoolEffect:
    """What a pool led to: accepted over judged, distinct over parsed instructions, instructions by type."""

    pool: str
    acceptance: Rate
    distinct: Rate
    types: Mapping[str, int]


def pool_effect(pool: str, instructions: Sequence[Instruction], candidates: Sequence[Candidate] = ()) -> PoolEffect:
    """Measure what one pool (or one way of prompting) led to; compare two on the same seeds.

    Acceptance is that of the instructions, and where no critic judged those, that of their responses.
    """
    judged = [item.critique for item in instructions if item.critique is not None]
    judged = judged or [item.pair_critique for item in candidates if item.pair_critique is not None]
    accepted = sum(critique.accepted for critique in judged)
    distinct = len({fold(item.text) for item in instructions})
    types = dict(sorted(Counter(item.type for item in instructions).items()))
    return PoolEffect(pool, Rate(accepted, len(judged)), Rate(distinct, len(instructions)), types)


@dataclass(frozen=True, slots=True)
class CleaningRow:
    """One generation before and after cleaning. `removed` counts characters cut, `large` marks more than a third."""

    id: str
    before: str
    after: str
    rules: tuple[str, ...]
    removed: int
    large: bool


def audit_cleaning(candidates: Sequence[Candidate], count: int, seed: int) -> list[CleaningRow]:
    """`count` random candidates (all, if fewer), the largest changes first; `rules` tell which rule shortened them."""
    drawn = stream(seed, "audit_cleaning").sample(list(candidates), min(count, len(candidates)))
    return sorted((_row(candidate) for candidate in drawn), key=lambda row: (-row.removed, row.id))


def _row(candidate: Candidate) -> CleaningRow:
    before, after = candidate.generated.strip(), candidate.response
    removed = len(before) - len(after)
    return CleaningRow(candidate.id, before, after, candidate.cleaning, removed, removed * 3 > len(before))
