"""Which answers were really verified, so that no other can become the chosen side of a pair (specification item 444).

For items of verifiable types a chosen answer needs a verifier's "right", a rejected one must not be right as well; an
abstention is neither. `verify_answers` judges and `may_be_chosen` decides; a stage stores the verdicts, never a flag
somebody set by hand: the hash ties each verdict to its text and its checks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rung.base.errors import GateFailed
from rung.base.fingerprint import content_hash
from rung.records.contracts import Item, Scorer, Trace

__all__ = ["Verification", "may_be_chosen", "may_be_rejected", "require_verified", "verify_answers"]


@dataclass(frozen=True, slots=True)
class Verification:
    """A verifier's verdict on one text: `of` is the hash of the item's instruction, its reference and the text."""

    item_id: str
    of: str
    verdict: Literal["right", "wrong", "unjudged"]
    reason: str = ""


def verify_answers(items: Sequence[Item], traces: Sequence[Trace], scorer: Scorer) -> list[Verification]:
    """One verdict per answer; only a full score is right, an abstention or a part of it is not."""
    found = []
    for item, trace, score in zip(items, traces, scorer.score(items, traces), strict=True):
        verdict: Literal["right", "wrong", "unjudged"] = "right" if score.value == 1.0 else "wrong"
        if score.value is None:
            verdict = "unjudged"
        found.append(Verification(item.id, _hash(item, trace.text), verdict, score.reason))
    return found


def may_be_chosen(item: Item, text: str, verdicts: Mapping[str, Verification], types: Collection[str]) -> bool:
    """Whether `text` may be preferred: its type is not among the verifiable `types`, or this very text is right.

    `verdicts` are verifications by their `of`.
    """
    return item.type not in types or _verdict(item, text, verdicts) == "right"


def may_be_rejected(item: Item, text: str, verdicts: Mapping[str, Verification], types: Collection[str]) -> bool:
    """Whether `text` may be the worse side: of a verifiable type it must have been judged wrong."""
    return item.type not in types or _verdict(item, text, verdicts) == "wrong"


def require_verified(
    chosen: Iterable[tuple[Item, str]], verdicts: Mapping[str, Verification], types: Collection[str]
) -> None:
    """Refuse chosen answers of verifiable types that nobody verified.

    Raises:
        GateFailed: naming how many, and the first.
    """
    missing = [(item, text) for item, text in chosen if not may_be_chosen(item, text, verdicts, types)]
    if missing:
        item, text = missing[0]
        how = _verdict(item, text, verdicts) or "never judged"
        raise GateFailed(
            f"{len(missing)} chosen answers are not verified; the first, of '{item.id}', is {how}: {text[:60]!r}",
            hint="verify the answers first, or leave the type out of the verifiable ones",
        )


def _verdict(item: Item, text: str, verdicts: Mapping[str, Verification]) -> str:
    found = verdicts.get(_hash(item, text))
    return found.verdict if found else ""


def _hash(item: Item, text: str) -> str:
    return content_hash([item.instruction, item.reference, text])
