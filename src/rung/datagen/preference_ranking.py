"""Preference pairs from ranked feedback: the best answer against the worst, and neighbours in rank that lie apart.

All pairs of a ranking say the same few things over and over and let a long ranking outweigh a short one. So a prompt
gives its best against its worst (when they differ at all), then neighbours whose scores lie at least `min_gap` apart,
the widest first, up to a limit. Equal scores are ties and make no pair; nothing is guessed from the order in which the
answers stand. Scores and their difference are kept as margins (for objectives that use them, and for reports).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.wording import fold
from rung.records.chat.frame import Frame
from rung.records.types import Drop, PreferencePair, record_id

__all__ = ["RANKED", "RankedAnswer", "RankedPairs", "RankedSettings", "Ranking", "ranked_pair", "ranked_pairs"]

RANKED = "ranked"
_PART = "ranked_pairs"


class RankedSettings(BaseSettings):
    """Which pairs a ranking gives."""

    min_gap: float = Field(1.0, ge=0, description="least difference of scores between neighbours in rank")
    max_per_prompt: int = Field(3, ge=1, le=100, description="pairs of one prompt, best against worst first")


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """One answer with its score (higher is better), who gave it, and where the text comes from."""

    text: str
    score: float
    labeller: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Answers to one prompt, in any order, scored by one labeller on one scale."""

    instruction: str
    answers: tuple[RankedAnswer, ...]
    type: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RankedPairs:
    """Pairs in the order of their rankings, and what made none with its reason."""

    pairs: tuple[PreferencePair, ...]
    dropped: tuple[Drop, ...]


def ranked_pairs(rankings: Sequence[Ranking], settings: RankedSettings | None = None) -> RankedPairs:
    """The pairs of every ranking.

    Left out, with the reason: neighbours with equal scores ("tie") or too close ("small_gap"), pairs whose texts say
    the same ("same_text"), and what a prompt has beyond the limit ("more_than_wanted").
    """
    settings = settings or RankedSettings()
    pairs: list[PreferencePair] = []
    dropped: list[Drop] = []
    for ranking in rankings:
        made = 0
        for chosen, rejected, outer in _candidates(ranking):
            reason = _reason(chosen, rejected, outer, settings)
            reason = reason or ("more_than_wanted" if made == settings.max_per_prompt else "")
            if reason:
                dropped.append(_drop(ranking, chosen, rejected, reason))
            else:
                pairs.append(ranked_pair(ranking, chosen, rejected))
                made += 1
    return RankedPairs(tuple(pairs), tuple(dropped))


def ranked_pair(ranking: Ranking, chosen: RankedAnswer, rejected: RankedAnswer) -> PreferencePair:
    """The pair of two answers of a ranking; metadata gain its margin."""
    return PreferencePair(
        id=record_id("pair", ranking.instruction, chosen.text, rejected.text),
        instruction=ranking.instruction,
        type=ranking.type,
        prompt=Frame.prompt(ranking.instruction),
        chosen=chosen.text,
        rejected=rejected.text,
        kind=RANKED,
        chosen_source=chosen.source,
        rejected_source=rejected.source,
        chosen_margin=chosen.score,
        rejected_margin=rejected.score,
        chosen_critic=chosen.labeller,
        rejected_critic=rejected.labeller,
        metadata={**ranking.metadata, "artifact_type": "pair", "margin": chosen.score - rejected.score},
    )


def _candidates(ranking: Ranking) -> Iterator[tuple[RankedAnswer, RankedAnswer, bool]]:
    """(better, worse, whether best against worst): that one first, then neighbours, the widest first.

    Answers with equal scores stand in the order of their texts, so that the order of input decides nothing.
    """
    ranked = sorted(ranking.answers, key=lambda answer: (-answer.score, answer.text))
    if len(ranked) < 2:
        return
    yield ranked[0], ranked[-1], True
    neighbours = list(itertools.pairwise(ranked)) if len(ranked) > 2 else []
    neighbours.sort(key=lambda two: two[1].score - two[0].score)
    for chosen, rejected in neighbours:
        yield chosen, rejected, False


def _reason(chosen: RankedAnswer, rejected: RankedAnswer, outer: bool, settings: RankedSettings) -> str:
    """Why two answers make no pair; empty when they do."""
    gap = chosen.score - rejected.score
    if gap <= 0:
        return "tie"
    if gap < settings.min_gap and not outer:
        return "small_gap"
    return "same_text" if fold(chosen.text) == fold(rejected.text) else ""


def _drop(ranking: Ranking, chosen: RankedAnswer, rejected: RankedAnswer, reason: str) -> Drop:
    name = record_id("pair", ranking.instruction, chosen.text, rejected.text)
    detail = {"instruction": ranking.instruction, "chosen": chosen.source, "margin": chosen.score - rejected.score}
    return Drop(name, rejected.text, _PART, reason, detail=detail)
