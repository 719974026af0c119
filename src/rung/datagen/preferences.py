"""Preference pairs from what generation left: the best response of an instruction against its siblings. No model call.

What was rejected is half of a pair that is already paid for. A pair is kept only when the critic tells the two apart by
a stated margin; every pair that is left out keeps its reason. Pairs with responses written to be worse come from
`negatives`; the figures here are of both.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.records.chat.frame import Frame
from rung.records.types import Candidate, Critique, Drop, PreferencePair, SftRecord, from_plain, record_id

__all__ = [
    "BEST_OF_N",
    "LengthSettings",
    "Lengths",
    "PairFigures",
    "PairSettings",
    "Paired",
    "Side",
    "best_of_n",
    "lengths",
    "pair_figures",
    "pair_of",
]

BEST_OF_N = "best_of_n"


class PairSettings(BaseSettings):
    """Which pairs are sure enough."""

    min_gap: float = Field(0.1, ge=0, description="least difference of the two signed margins, in the critic's unit")
    max_per_chosen: int = Field(0, ge=0, description="pairs with one chosen response, the widest first; 0: all")


class LengthSettings(BaseSettings):
    """When the lengths of the two sides drift apart: preference training then learns length before anything else."""

    warn_ratio: float = Field(1.5, gt=1, description="median tokens of one side over the other's that are warned about")
    fail_ratio: float = Field(4.0, gt=1, description="ratio that the gate does not pass")


@dataclass(frozen=True, slots=True)
class Side:
    """One response of a pair, with who judged it (None and empty: nobody), where it comes from and its tokens."""

    text: str
    source: str
    margin: float | None = None
    critic: str = ""
    num_tokens: int = -1


@dataclass(frozen=True, slots=True)
class Paired:
    """Pairs in the order of their chosen records, and the siblings that made none."""

    pairs: tuple[PreferencePair, ...]
    dropped: tuple[Drop, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Median tokens of both sides over pairs where both were counted; `ratio` is the longer over the shorter.

    `warning` says in words what to watch for, empty when the ratio is under the set one.
    """

    num_pairs: int
    median_chosen: float
    median_rejected: float
    ratio: float
    warning: str = ""


@dataclass(frozen=True, slots=True)
class PairFigures:
    """What the pairs are, counted. `shares` are those of the kinds among pairs with written negatives."""

    num_pairs: int
    num_chosen: int
    kinds: Mapping[str, int]
    shares: Mapping[str, float]
    drops: Mapping[str, int]
    median_gap: float | None
    lengths: Lengths
    lengths_by_kind: Mapping[str, Lengths] = field(default_factory=dict)


def best_of_n(records: Sequence[SftRecord], candidates: Sequence[Candidate], settings: PairSettings) -> Paired:
    """Every record's response against each of its siblings that a critic ranked lower.

    Siblings are the candidates of the record's own instruction; where `candidates` lack the record's candidate, the
    rejects stored in the record itself. Left out, each with its reason: a text that equals the chosen one or an earlier
    sibling ("same_text", "repeat"), siblings without a margin ("not_judged": a filter dropped them), margins that are
    not below the chosen one's ("not_better") or by less than `min_gap` ("low_confidence").
    """
    groups: dict[tuple[int, str], list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault((candidate.shard, candidate.instruction_id), []).append(candidate)
    by_id = {candidate.id: candidate for candidate in candidates}
    pairs: list[PreferencePair] = []
    dropped: list[Drop] = []
    for record in records:
        own = by_id.get(str(record.metadata.get("candidate", "")))
        if own is None:
            chosen, siblings = _chosen(record), [_reject(record, n, one) for n, one in enumerate(record.rejects)]
        else:
            chosen = dataclasses.replace(_side(own), source=record.id)
            siblings = [_side(one) for one in groups[own.shard, own.instruction_id] if one.id != own.id]
        made, left_out = _against(record, chosen, siblings, settings)
        pairs += made
        dropped += left_out
    return Paired(tuple(pairs), tuple(dropped))


def pair_of(record: SftRecord, kind: str, chosen: Side, rejected: Side, made_with: Mapping[str, Any]) -> PreferencePair:
    """The pair of a record's response and a worse one; `made_with` is added to the record's metadata."""
    return PreferencePair(
        id=record_id("pair", record.instruction, chosen.text, rejected.text),
        instruction=record.instruction,
        type=record.type,
        prompt=Frame.prompt(record.instruction),
        chosen=chosen.text,
        rejected=rejected.text,
        kind=kind,
        chosen_source=chosen.source,
        rejected_source=rejected.source,
        chosen_margin=chosen.margin,
        rejected_margin=rejected.margin,
        chosen_critic=chosen.critic,
        rejected_critic=rejected.critic,
        num_chosen_tokens=chosen.num_tokens,
        num_rejected_tokens=rejected.num_tokens,
        metadata={**record.metadata, "artifact_type": "pair", **made_with},
    )


def lengths(pairs: Sequence[PreferencePair], settings: LengthSettings) -> Lengths:
    """How long the two sides are."""
    counted = [pair for pair in pairs if min(pair.num_chosen_tokens, pair.num_rejected_tokens) > 0]
    if not counted:
        return Lengths(0, 0.0, 0.0, 1.0)
    chosen = float(statistics.median(pair.num_chosen_tokens for pair in counted))
    rejected = float(statistics.median(pair.num_rejected_tokens for pair in counted))
    ratio = max(chosen, rejected) / min(chosen, rejected)
    longer = "chosen" if chosen > rejected else "rejected"
    warning = f"the {longer} responses are {ratio:.2f} times as long as the others (medians {chosen:g}, {rejected:g})"
    return Lengths(len(counted), chosen, rejected, ratio, warning if ratio > settings.warn_ratio else "")


def pair_figures(pairs: Sequence[PreferencePair], reasons: Sequence[str], settings: LengthSettings) -> PairFigures:
    """The figures of finished pairs; `reasons` are those of everything that was left out."""
    kinds = Counter(pair.kind for pair in pairs)
    written = sum(count for kind, count in kinds.items() if kind != BEST_OF_N)
    gaps = [
        pair.chosen_margin - pair.rejected_margin
        for pair in pairs
        if pair.chosen_margin is not None and pair.rejected_margin is not None
    ]
    by_kind = {kind: lengths([pair for pair in pairs if pair.kind == kind], settings) for kind in sorted(kinds)}
    return PairFigures(
        num_pairs=len(pairs),
        num_chosen=len({pair.chosen_source for pair in pairs}),
        kinds=dict(sorted(kinds.items())),
        shares={kind: count / written for kind, count in sorted(kinds.items()) if kind != BEST_OF_N},
        drops=dict(sorted(Counter(reasons).items())),
        median_gap=float(statistics.median(gaps)) if gaps else None,
        lengths=lengths(pairs, settings),
        lengths_by_kind=by_kind,
    )


def _against(
    record: SftRecord, chosen: Side, siblings: Sequence[Side], settings: PairSettings
) -> tuple[list[PreferencePair], list[Drop]]:
    """The record's pairs, the widest first, and the siblings that made none."""
    seen: set[str] = set()
    fit: list[Side] = []
    dropped: list[Drop] = []
    for sibling in siblings:
        reason = _reason(chosen, sibling, seen, settings)
        seen.add(sibling.text)
        if reason:
            dropped.append(_drop(record, sibling, reason))
        else:
            fit.append(sibling)
    fit.sort(key=lambda side: side.margin or 0.0)
    limit = settings.max_per_chosen or len(fit)
    dropped += [_drop(record, sibling, "more_than_wanted") for sibling in fit[limit:]]
    return [pair_of(record, BEST_OF_N, chosen, sibling, {}) for sibling in fit[:limit]], dropped


def _reason(chosen: Side, sibling: Side, seen: set[str], settings: PairSettings) -> str:
    """Why a sibling makes no pair; empty when it makes one."""
    if sibling.text == chosen.text:
        return "same_text"
    if sibling.text in seen:
        return "repeat"
    if sibling.margin is None or chosen.margin is None:
        return "not_judged"
    gap = chosen.margin - sibling.margin
    return "not_better" if gap <= 0 else "low_confidence" if gap < settings.min_gap else ""


def _drop(record: SftRecord, sibling: Side, reason: str) -> Drop:
    name = record_id("sibling", record.id, sibling.source, sibling.text)
    return Drop(name, sibling.text, "best_of_n", reason, detail={"record": record.id, "margin": sibling.margin})


def _chosen(record: SftRecord) -> Side:
    critique = record.pair_critique
    margin, critic = (critique.rank, critique.critic) if critique else (None, "")
    return Side(record.response, record.id, margin, critic, record.num_response_tokens)


def _reject(record: SftRecord, number: int, values: Mapping[str, Any]) -> Side:
    """A sibling as the record of the chosen one stores it; judged, if at all, by the same critic."""
    stored = values.get("critique")
    margin = from_plain(Critique, stored).rank if stored else values.get("signed_margin")
    critic = record.pair_critique.critic if record.pair_critique else ""
    tokens = int(values.get("num_response_tokens", -1))
    return Side(str(values["response"]), f"{record.id}:reject:{number}", margin, critic, tokens)


def _side(candidate: Candidate) -> Side:
    critique = candidate.pair_critique
    margin, critic = (critique.rank, critique.critic) if critique else (None, "")
    return Side(candidate.response, candidate.id, margin, critic, candidate.num_response_tokens)
