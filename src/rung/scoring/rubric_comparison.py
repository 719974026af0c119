"""The A/B test of two rubric wordings (or any two critics) over one labelled set, paired."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydantic

from rung.base.errors import DataError
from rung.base.proportions import sign_test, wilson_interval
from rung.records.contracts import Item, Trace
from rung.scoring.calibration_report import Acceptance
from rung.scoring.corruptions import Corrupted, corrupt
from rung.scoring.critic import Critic
from rung.scoring.known_pairs import KnownPair

__all__ = ["Labelled", "RubricComparison", "compare_rubrics", "labelled_from", "read_labelled"]


@dataclass(frozen=True, slots=True)
class Labelled:
    """An answer that someone knows to be good or bad."""

    instruction: str
    response: str
    type: str
    is_good: bool


class RubricComparison(pydantic.BaseModel):
    """Two critics on the same answers.

    `precision` of each is good accepted of all accepted, `recall` good accepted of all good. `agreement` counts equal
    verdicts, `kappa` what is left of it beyond chance (None where chance explains everything). `only_first_right` and
    `only_second_right` are the discordant pairs of `p_correct` (which wording decides better); `only_first_accepts` and
    `only_second_accepts` those of `p_acceptance` (which accepts more). Both p are exact McNemar, two-sided.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    names: tuple[str, str]
    num_labelled: int
    acceptance: tuple[Acceptance, Acceptance]
    precision: tuple[Acceptance, Acceptance]
    recall: tuple[Acceptance, Acceptance]
    agreement: Acceptance
    kappa: float | None
    only_first_right: int
    only_second_right: int
    p_correct: float
    only_first_accepts: int
    only_second_accepts: int
    p_acceptance: float


def labelled_from(pairs: Sequence[KnownPair], seed: int) -> list[Labelled]:
    """Every known pair as good, and one corruption of each as bad; the kinds of corruption take turns."""
    made: dict[int, list[Corrupted]] = {}
    for one in corrupt(pairs, seed):
        made.setdefault(one.source, []).append(one)
    good = [Labelled(pair.instruction, pair.response, pair.type, is_good=True) for pair in pairs]
    chosen = [kinds[number % len(kinds)] for number, kinds in sorted(made.items())]
    return [*good, *(Labelled(one.instruction, one.response, one.type, is_good=False) for one in chosen)]


def read_labelled(path: Path) -> list[Labelled]:
    """Labelled answers from JSON lines with instruction, response, is_good, and type (may be missing).

    Raises:
        DataError: no such file, not JSON, or a field that is missing or of another kind; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", place=str(path)) from error
    return [_labelled(line, f"{path.name}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _labelled(line: str, place: str) -> Labelled:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", place=place) from error
    wanted = {"instruction": str, "response": str, "is_good": bool}
    for name, kind in wanted.items():
        if not isinstance(row, dict) or not isinstance(row.get(name), kind):
            raise DataError(
                f"'{name}' is missing or no {kind.__name__}",
                place=place,
                hint='{"instruction": "...", "response": "...", "type": "factual", "is_good": true}',
            )
    return Labelled(row["instruction"], row["response"], str(row.get("type", "")), row["is_good"])


def compare_rubrics(
    first: Critic, second: Critic, labelled: Sequence[Labelled], names: tuple[str, str] = ("first", "second")
) -> RubricComparison:
    """Judge one labelled set with both.

    Raises:
        DataError: there is nothing to judge.
    """
    if not labelled:
        raise DataError("a rubric test needs labelled answers", hint="give instruction, response, type and is_good")
    items = [Item(f"labelled-{number}", one.instruction, one.type) for number, one in enumerate(labelled)]
    traces = [Trace(item.id, one.response) for item, one in zip(items, labelled, strict=True)]
    truth = [one.is_good for one in labelled]
    ours = [critique.accepted for critique in first.critique(items, traces)]
    theirs = [critique.accepted for critique in second.critique(items, traces)]
    both = (ours, theirs)
    right = [[verdict == good for verdict, good in zip(verdicts, truth, strict=True)] for verdicts in both]
    discordant_right, discordant = _discordant(right[0], right[1]), _discordant(ours, theirs)
    return RubricComparison(
        names=names,
        num_labelled=len(labelled),
        acceptance=(_share(ours), _share(theirs)),
        precision=(_among(truth, ours), _among(truth, theirs)),
        recall=(_among(ours, truth), _among(theirs, truth)),
        agreement=_share([a == b for a, b in zip(ours, theirs, strict=True)]),
        kappa=_kappa(ours, theirs),
        only_first_right=discordant_right[0],
        only_second_right=discordant_right[1],
        p_correct=sign_test(*discordant_right),
        only_first_accepts=discordant[0],
        only_second_accepts=discordant[1],
        p_acceptance=sign_test(*discordant),
    )


def _share(flags: Sequence[bool]) -> Acceptance:
    return _among(flags, [True] * len(flags))


def _among(flags: Sequence[bool], within: Sequence[bool]) -> Acceptance:
    chosen = [flag for flag, inside in zip(flags, within, strict=True) if inside]
    low, high = wilson_interval(sum(chosen), len(chosen))
    return Acceptance(num_accepted=sum(chosen), num_judged=len(chosen), low=low, high=high)


def _discordant(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int]:
    pairs = list(zip(first, second, strict=True))
    return pairs.count((True, False)), pairs.count((False, True))


def _kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    number = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / number
    share, other = sum(first) / number, sum(second) / number
    by_chance = share * other + (1 - share) * (1 - other)
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)
