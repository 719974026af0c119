"""More from the same preferences: both orders for judges that see two answers, and negatives that were proved wrong.

What is added is marked, keeps its preference (checked, not assumed) and stays out of the test side: sides are drawn by
the hash of the prompt, so that every pair of a prompt, made now or later, lies on one side. The chosen answer is never
rewritten; paraphrasing one side alone teaches the paraphraser's style.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rung.base.errors import DataError
from rung.base.seeds import derive, uniform
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.wording import fold
from rung.records.types import Drop, PreferencePair, record_id

__all__ = [
    "AUGMENTED",
    "Augmented",
    "OrderedPair",
    "PromptSplit",
    "both_orders",
    "is_augmented",
    "leaks",
    "verified_negatives",
]

AUGMENTED = "augmented"
_PART = "preference_augment"


class PromptSplit(BaseSettings):
    """Which side a prompt lies on; the same for every pair of it, whatever else is in the data."""

    test_share: float = Field(0.1, ge=0, lt=1, description="share of prompts kept for testing")
    salt: int = Field(0, ge=0, description="another number draws other sides")

    def is_test(self, instruction: str) -> bool:
        """Whether the prompt is held out. Case, punctuation and spaces do not matter."""
        return uniform(derive(self.salt, "preference", fold(instruction)), 0) < self.test_share

    def parted(self, pairs: Sequence[PreferencePair]) -> tuple[list[PreferencePair], list[PreferencePair]]:
        """Training and test pairs, in order.

        Raises:
            DataError: an augmented pair whose prompt is held out.
        """
        train = [pair for pair in pairs if not self.is_test(pair.instruction)]
        test = [pair for pair in pairs if self.is_test(pair.instruction)]
        if found := leaks(train, test):
            raise DataError(f"{len(found)} pairs leak into the test side: {', '.join(found[:3])}")
        return train, test


@dataclass(frozen=True, slots=True)
class OrderedPair:
    """A pair as a judge sees it: two answers in an order, and which one is preferred."""

    id: str
    pair_id: str
    instruction: str
    first: str
    second: str
    preferred: Literal[1, 2]
    augmented: bool


@dataclass(frozen=True, slots=True)
class Augmented:
    """Pairs that were added, each marked, and what was not with its reason."""

    pairs: tuple[PreferencePair, ...]
    dropped: tuple[Drop, ...]


def both_orders(pairs: Sequence[PreferencePair], split: PromptSplit, seed: int = 0) -> list[OrderedPair]:
    """Every pair in an order drawn from its id, and training pairs in the other order too, marked as augmented.

    Test pairs stay as they are; a judge is tested in both orders by asking twice.
    """
    made = []
    for pair in pairs:
        drawn: Literal[1, 2] = 1 if uniform(derive(seed, "order", pair.id), 0) < 0.5 else 2
        made.append(_ordered(pair, drawn, augmented=False))
        if not split.is_test(pair.instruction):
            made.append(_ordered(pair, 1 if drawn == 2 else 2, augmented=True))
    return made


def verified_negatives(
    pairs: Sequence[PreferencePair],
    mutate: Callable[[PreferencePair], str | None],
    verify: Callable[[str, str], bool | None],
    split: PromptSplit,
) -> Augmented:
    """One more rejected answer for each training pair, made by `mutate` and proved wrong by `verify`.

    Args:
        pairs: the pairs to start from.
        mutate: a worse version of the chosen answer, None where it has none.
        verify: whether an answer to an instruction is right; None: cannot say.
        split: pairs of held-out prompts are left alone.

    Left out, with the reason: "held_out", "not_mutated", "same_text", "chosen_not_verified" (the chosen answer must
    pass, or the pair would prefer nothing), "still_right" and "undecided" negatives.
    """
    made: list[PreferencePair] = []
    dropped: list[Drop] = []
    for pair in pairs:
        text = None if split.is_test(pair.instruction) else mutate(pair)
        reason = _why_not(pair, text, verify, split)
        if reason or text is None:
            dropped.append(Drop(pair.id, text or "", _PART, reason))
        else:
            made.append(_with_rejected(pair, text))
    return Augmented(tuple(made), tuple(dropped))


def is_augmented(pair: PreferencePair) -> bool:
    """Whether a pair was made from another one."""
    return AUGMENTED in pair.metadata


def leaks(train: Sequence[PreferencePair], test: Sequence[PreferencePair]) -> list[str]:
    """Ids of test pairs that were augmented, or whose prompt stands on the training side too."""
    prompts = {fold(pair.instruction) for pair in train}
    return [pair.id for pair in test if is_augmented(pair) or fold(pair.instruction) in prompts]


def _ordered(pair: PreferencePair, preferred: Literal[1, 2], *, augmented: bool) -> OrderedPair:
    first, second = (pair.chosen, pair.rejected) if preferred == 1 else (pair.rejected, pair.chosen)
    name = record_id("ordered", pair.id, preferred)
    return OrderedPair(name, pair.id, pair.instruction, first, second, preferred, augmented)


def _why_not(
    pair: PreferencePair, text: str | None, verify: Callable[[str, str], bool | None], split: PromptSplit
) -> str:
    """Why no negative is added; empty when one is. The verifier is asked last, as it may cost something."""
    if split.is_test(pair.instruction):
        return "held_out"
    if text is None:
        return "not_mutated"
    if text.strip() in (pair.chosen.strip(), pair.rejected.strip()):
        return "same_text"
    if verify(pair.instruction, pair.chosen) is not True:
        return "chosen_not_verified"
    wrong = verify(pair.instruction, text)
    return "" if wrong is False else "undecided" if wrong is None else "still_right"


def _with_rejected(pair: PreferencePair, text: str) -> PreferencePair:
    """The pair with another rejected answer; nobody scored that one, so its margins go."""
    return dataclasses.replace(
        pair,
        id=record_id("pair", pair.instruction, pair.chosen, text),
        rejected=text,
        kind="verified_negative",
        rejected_source=pair.chosen_source,
        rejected_margin=None,
        rejected_critic="",
        num_rejected_tokens=-1,
        metadata={k: v for k, v in pair.metadata.items() if k != "margin"} | {AUGMENTED: "verified_negative",
                                                                            "augmented_from": pair.id},
    )  # fmt: skip
