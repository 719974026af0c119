"""What a pairwise judge says of preference pairs: how far it prefers the chosen response, whatever its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.base.settings import validate
from rung.records.contracts import Completer
from rung.records.tokenizer import Tokenizer
from rung.records.types import PreferencePair
from rung.scoring.judged_pairs import Verdict, in_random_order
from rung.scoring.judges.branch_rethink import BranchRethink, BranchRethinkSettings

__all__ = ["PairVerdict", "branch_rethink_verdicts"]


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """The verdict on one pair. `chosen` is the share of valid readings that prefer the chosen response: 1 right, 0
    wrong, a half where the two orders disagree, None where the judge abstains."""

    pair_id: str
    chosen: float | None
    verdict: Verdict

    @property
    def won(self) -> float:
        """What the pair adds to accuracy: an abstention counts as no preference, a half."""
        return 0.5 if self.chosen is None else self.chosen


def branch_rethink_verdicts(
    pairs: Sequence[PreferencePair],
    completer: Completer,
    tokenizer: Tokenizer | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> list[PairVerdict]:
    """Judge every pair in both orders, with the chosen response first or second as the seed says.

    Raises:
        ModelError: the model is not clean and the settings do not allow that.
        SettingsError: the completer takes neither ids (no tokenizer was lent) nor messages.
    """
    own = validate(BranchRethinkSettings, settings, "branch_rethink")
    judge = BranchRethink(own, completer, tokenizer)
    found = []
    items = in_random_order(pairs, seed)
    for item, verdict in zip(items, judge.verdicts(items), strict=True):
        preference = verdict.preference
        chosen = 1 - preference if preference is not None and item.reference["better"] == 2 else preference
        found.append(PairVerdict(item.id, chosen, verdict))
    return found
