"""From candidates to training records: token counts, the choice between siblings, the record itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rung.base.errors import DataError
from rung.base.fingerprint import plain
from rung.records.chat.frame import Frame
from rung.records.types import Candidate, SftRecord, record_id

__all__ = ["choose", "count_tokens", "sft_record"]


def count_tokens(candidates: Sequence[Candidate], count: Callable[[Sequence[str]], list[int]]) -> list[Candidate]:
    """The candidates with `num_response_tokens` filled in; `count` is the completer's `count_tokens`."""
    counts = count([candidate.response for candidate in candidates])
    return [
        dataclasses.replace(candidate, num_response_tokens=number)
        for candidate, number in zip(candidates, counts, strict=True)
    ]


def choose(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Decide every undecided, judged candidate: kept, rejected by its critic, or passed over for a better sibling.

    Kept is the accepted candidate of highest rank of each instruction (the earlier one of equals);
    candidates that were decided before stay as they are. Order is kept.
    """
    best: dict[str, Candidate] = {}
    for candidate in candidates:
        critique = candidate.pair_critique
        if candidate.outcome != "generated" or critique is None or not critique.accepted:
            continue
        leader = best.get(candidate.instruction_id)
        if leader is None or leader.pair_critique is None or critique.rank > leader.pair_critique.rank:
            best[candidate.instruction_id] = candidate
    return [_decide(candidate, best) for candidate in candidates]


def _decide(candidate: Candidate, best: Mapping[str, Candidate]) -> Candidate:
    critique = candidate.pair_critique
    if candidate.outcome != "generated" or critique is None:
        return candidate
    if not critique.accepted:
        reason = "bad" if critique.confident else "low_confidence"
        return dataclasses.replace(candidate, outcome="rejected", part=critique.critic, reason=reason)
    if best[candidate.instruction_id].id != candidate.id:
        return dataclasses.replace(candidate, outcome="passed_over", part=critique.critic, reason="sibling_is_better")
    return dataclasses.replace(candidate, outcome="kept", part=critique.critic)


def sft_record(
    candidate: Candidate, rejects: Sequence[Candidate] = (), metadata: Mapping[str, Any] | None = None
) -> SftRecord:
    """The training record of a kept candidate; `rejects` are its siblings, stored with their margins.

    Raises:
        DataError: the candidate was not kept, or its tokens were not counted.
    """
    if candidate.outcome != "kept" or candidate.num_response_tokens < 0:
        raise DataError(f"candidate {candidate.id} is '{candidate.outcome}', only kept and counted ones are trained on")
    return SftRecord(
        id=record_id("sft", candidate.instruction, candidate.response),
        instruction=candidate.instruction,
        response=candidate.response,
        type=candidate.type,
        prompt=candidate.prompt,
        training_prompt=Frame.prompt(candidate.instruction),
        completion=Frame.completion(candidate.response),
        raw_response=candidate.raw_text,
        finish_reason=candidate.finish_reason,
        num_response_tokens=candidate.num_response_tokens,
        instruction_critique=candidate.instruction_critique,
        pair_critique=candidate.pair_critique,
        source=candidate.source,
        rejects=tuple(_reject(reject) for reject in rejects),
        metadata={
            **(metadata or {}),
            "candidate": candidate.id,
            "seed": candidate.seed,
            "cleaning": candidate.cleaning,
        },
    )


def _reject(candidate: Candidate) -> dict[str, Any]:
    critique = candidate.pair_critique
    return {
        "id": candidate.id,
        "response": candidate.response,
        "outcome": candidate.outcome,
        "reason": candidate.reason,
        "num_response_tokens": candidate.num_response_tokens,
        "signed_margin": critique.signed_margin if critique else None,
        "critique": plain(critique) if critique else None,
    }
