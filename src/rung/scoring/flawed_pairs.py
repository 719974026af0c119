"""Pairs of responses of which one has a planted, subtle flaw, written by program from known truth; no model.

Both responses look alike: same length, same form, one thing wrong. Eight families, one to each dimension of the
branch-and-rethink judge (`rung.scoring.flawed_families`). What to verify is known for both, and so is what verifying
shows; a suspicion names the same thing in both responses, so that it does not give away which one is flawed. A question
belongs to the training or to the held-out part by a hash of what it asks, for ever.

Narrow on purpose: a judge that is perfect here has learnt these families, not judgement at large.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from rung.base.errors import DataError, SettingsError
from rung.base.seeds import derive
from rung.base.settings import nearest
from rung.records.types import PreferencePair, record_id
from rung.scoring.flawed_families import FAMILIES, FlawedPair
from rung.scoring.task import Split, split_of

__all__ = ["as_preference", "flawed_pairs"]

_ATTEMPTS_PER_PAIR = 200


def flawed_pairs(seed: int, count: int, split: Split = "train", families: Sequence[str] = ()) -> list[FlawedPair]:
    """`count` different pairs of one part, the families (all of them by default) taking turns.

    Raises:
        SettingsError: an unknown family.
        DataError: the families hold fewer different pairs than that.
    """
    chosen = list(families) or list(FAMILIES)
    for name in chosen:
        if name not in FAMILIES:
            raise SettingsError(f"no family is called '{name}'", place="families", hint=nearest(name, list(FAMILIES)))
    found: dict[str, FlawedPair] = {}
    for attempt in range(count * _ATTEMPTS_PER_PAIR):
        if len(found) == count:
            break
        name = chosen[len(found) % len(chosen)]
        pair = FAMILIES[name](random.Random(derive(seed, "flawed pair", name, attempt)))
        key = f"{name} {pair.key}"
        if key not in found and split_of(name, pair.key) == split:
            found[key] = pair
    if len(found) < count:
        raise DataError(f"only {len(found)} different {split} pairs, {count} wanted", place="flawed pairs")
    return list(found.values())


def as_preference(pair: FlawedPair) -> PreferencePair:
    """The pair as a record; its kind is the family's name."""
    name = record_id("flawed", pair.family, pair.key)
    return PreferencePair(
        id=name,
        instruction=pair.context,
        type=pair.family,
        prompt="",
        chosen=pair.good.response,
        rejected=pair.bad.response,
        kind=pair.family,
        chosen_source=f"{name}:good",
        rejected_source=f"{name}:bad",
    )
