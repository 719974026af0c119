"""Quality control: figures recomputed from records alone, thresholds in one place, a verdict that names its reasons.

Every figure is a pure function of the stored instructions and candidates (all of them: kept, rejected and dropped), so
a pilot, a running check, a merge and a gate use the same code and nothing is ever a constant. Populations:

- acceptance: accepted (good and confident) over judged, for instructions and for pairs; low confidence is a rejection
  and counted apart;
- token-limit rate: raw generations, all of them;
- runaway: responses after cleaning, all of them whatever became of them, so that neither cleaning nor a filter hides
  the rate; the same rule over the generations before cleaning and over the kept ones is given beside it;
- tokens: kept responses, in the model's own tokens; words are given beside them;
- leakage, incomplete answers and repeats: kept responses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rung.base.errors import DataError
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding, Subject, subject_of
from rung.datagen.heuristics import HEURISTICS, MAX_CHARACTERS, delimiter_leak, incomplete, runaway
from rung.datagen.wording import fold, words
from rung.records.chat.frame import Frame
from rung.records.types import Candidate, Critique, Instruction, SftRecord

__all__ = [
    "Acceptance",
    "Failure",
    "Flag",
    "Margins",
    "QcFigures",
    "QcVerdict",
    "Rate",
    "Spread",
    "Thresholds",
    "decide",
    "figures",
    "flags",
]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Thresholds(BaseSettings):
    """What a data set must meet. Bounds are strict as written: below, below, below, none, at least."""

    max_runaway_rate: float = Field(default=0.05, ge=0, le=1, description="runaways over cleaned responses: below this")
    max_limit_rate: float = Field(default=0.10, ge=0, le=1, description="token-limit hits over generations: below this")
    max_median_tokens: float = Field(default=40, gt=0, description="median tokens of kept responses: below this")
    max_leaks: int = Field(default=0, ge=0, description="kept responses with a delimiter in them: at most this many")
    max_incomplete: int = Field(default=0, ge=0, description="kept responses that are incomplete: at most this many")
    max_repeats: int = Field(default=0, ge=0, description="kept instructions that repeat an earlier one: at most")
    min_instruction_acceptance: float = Field(default=0.5, ge=0, le=1, description="accepted over judged: at least")
    min_pair_acceptance: float = Field(default=0.5, ge=0, le=1, description="accepted over judged: at least this")
    min_kept: int = Field(default=20, ge=1, description="with fewer kept records the gate refuses to decide")
    max_characters: int = Field(default=MAX_CHARACTERS, ge=1, description="a longer response counts as a runaway")


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` of `total`; `value` is None when there was nothing to count in."""

    count: int
    total: int

    @property
    def value(self) -> float | None:
        """The share, 0 to 1."""
        return self.count / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Verdicts of one critic: `good` are good and confident, `low_confidence` whatever was not confident."""

    good: int
    bad: int
    low_confidence: int

    @property
    def rate(self) -> Rate:
        """Good over judged."""
        return Rate(self.good, self.good + self.bad + self.low_confidence)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, mean, 95th percentile (linear, as numpy), least and most; all 0 for no values."""

    median: float
    mean: float
    p95: float
    min: float
    max: float
    n: int


@dataclass(frozen=True, slots=True)
class Margins:
    """Distribution of signed margins: quantiles (linear, as numpy) and a ten-bin histogram over their range."""

    n: int
    quantiles: Mapping[str, float]
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Flag:
    """One rule that fired on one record: what `rung inspect --flags` lists."""

    id: str
    heuristic: str
    rule: str
    text: str
    span: tuple[int, int]
    outcome: str


@dataclass(frozen=True, slots=True)
class QcFigures:
    """All figures of one data set; see the module for populations."""

    counts: Mapping[str, int]
    instruction_acceptance: Acceptance
    pair_acceptance: Acceptance
    limit: Rate
    runaway_pattern: Rate
    runaway_too_long: Rate
    runaway: Rate
    runaway_before_cleaning: Rate
    runaway_kept: Rate
    tokens: Spread
    words: Spread
    leak_ids: tuple[str, ...]
    incomplete_ids: tuple[str, ...]
    repeat_ids: tuple[str, ...]
    margins: Mapping[str, Margins]
    decisions: Mapping[str, int]
    flags: Mapping[str, int]
    types: Mapping[str, Mapping[str, int]]
    mismatched_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A threshold that was not met: its name, the value found, the limit, and both in words."""

    threshold: str
    value: float | None
    limit: float
    text: str


@dataclass(frozen=True, slots=True)
class QcVerdict:
    """`passed` only when decided and nothing failed. `advisory` are thresholds that did not count, with why and what
    they would have said."""

    passed: bool
    decided: bool
    failed: tuple[Failure, ...]
    advisory: Mapping[str, str]

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence per failure."""
        return tuple(failure.text for failure in self.failed)


def figures(
    instructions: Sequence[Instruction],
    candidates: Sequence[Candidate],
    records: Sequence[SftRecord] | None = None,
    thresholds: Thresholds | None = None,
) -> QcFigures:
    """Compute everything from stored records.

    Args:
        instructions: all that were parsed, judged or not, dropped ones included.
        candidates: all that were generated, whatever became of them.
        records: the training records, when they are to be checked against the kept candidates.
        thresholds: for the length that counts as a runaway.

    Raises:
        DataError: a kept candidate whose tokens were not counted.
    """
    limits = thresholds or Thresholds()
    kept = [candidate for candidate in candidates if candidate.outcome == "kept"]
    uncounted = [candidate.id for candidate in kept if candidate.num_response_tokens < 0]
    if uncounted:
        raise DataError(f"candidate {uncounted[0]} was kept without counting its tokens", hint="rung.datagen.assemble")
    cleaned = Counter(_runaway_rule(candidate.response, limits) for candidate in candidates)
    before = sum(bool(_runaway_rule(candidate.generated, limits)) for candidate in candidates)
    total, too_long = len(candidates), cleaned["too_long"]
    patterns = sum(count for rule, count in cleaned.items() if rule not in ("", "too_long"))
    return QcFigures(
        counts=_counts(instructions, candidates),
        instruction_acceptance=_acceptance(item.critique for item in instructions),
        pair_acceptance=_acceptance(candidate.pair_critique for candidate in candidates),
        limit=Rate(sum(candidate.hit_limit for candidate in candidates), total),
        runaway_pattern=Rate(patterns, total),
        runaway_too_long=Rate(too_long, total),
        runaway=Rate(patterns + too_long, total),
        runaway_before_cleaning=Rate(before, total),
        runaway_kept=Rate(sum(bool(_runaway_rule(candidate.response, limits)) for candidate in kept), len(kept)),
        tokens=_spread([candidate.num_response_tokens for candidate in kept]),
        words=_spread([len(words(candidate.response)) for candidate in kept]),
        leak_ids=tuple(candidate.id for candidate in kept if delimiter_leak(candidate.response)),
        incomplete_ids=tuple(candidate.id for candidate in kept if incomplete(subject_of(candidate))),
        repeat_ids=_repeats(kept),
        margins=_margins(instructions, candidates),
        decisions=dict(sorted(_decisions(instructions, candidates).items())),
        flags=dict(sorted(Counter(f"{flag.heuristic}.{flag.rule}" for flag in flags(candidates)).items())),
        types=_types(candidates),
        mismatched_ids=_mismatched(kept, records),
    )


def flags(candidates: Iterable[Candidate]) -> list[Flag]:
    """Every heuristic's finding on every candidate, kept or not, in order; `unfit` looks at its instruction."""
    found = []
    for candidate in candidates:
        for name, heuristic in HEURISTICS.items():
            finding: Finding | None = heuristic(subject_of(candidate))
            if finding:
                text = candidate.instruction if name == "unfit" else candidate.response
                found.append(Flag(candidate.id, name, finding.rule, text, finding.span, candidate.outcome))
    return found


def decide(
    found: QcFigures,
    thresholds: Thresholds,
    advisory: Mapping[str, str] | None = None,
    guard_passed: bool = True,
) -> QcVerdict:
    """Hold figures against thresholds.

    Args:
        found: recomputed figures.
        thresholds: the limits.
        advisory: threshold name -> why it does not count here (say, a critic that failed its calibration).
        guard_passed: the clean loader's verdict on the model; a contaminated model fails whatever the rates are.
    """
    excused = dict(advisory or {})
    failed, noted = [], dict(excused)
    for failure in _failures(found, thresholds, guard_passed):
        if failure.threshold in excused:
            noted[failure.threshold] = f"{excused[failure.threshold]}; would have failed: {failure.text}"
        else:
            failed.append(failure)
    num_kept = found.counts["kept"]
    enough = num_kept >= thresholds.min_kept
    if num_kept and not enough:
        text = f"too few to decide: {num_kept} kept records, at least {thresholds.min_kept} are needed"
        failed.append(Failure("min_kept", num_kept, thresholds.min_kept, text))
    return QcVerdict(not failed, enough or num_kept == 0, tuple(failed), noted)


def _failures(found: QcFigures, limits: Thresholds, guard_passed: bool) -> Iterable[Failure]:
    if not guard_passed:
        yield Failure("guard", 0, 1, "the model did not pass the contamination guard")
    if not found.counts["kept"]:
        yield Failure("min_kept", 0, limits.min_kept, "no record was kept")
    for name, rate, limit in (
        ("max_runaway_rate", found.runaway, limits.max_runaway_rate),
        ("max_limit_rate", found.limit, limits.max_limit_rate),
    ):
        if rate.value is None or rate.value >= limit:
            yield _failure(name, rate, "is not below", limit)
    if found.tokens.n and found.tokens.median >= limits.max_median_tokens:
        text = f"median response tokens {found.tokens.median:g} is not below {limits.max_median_tokens:g} "
        text += f"(median words {found.words.median:g})"
        yield Failure("max_median_tokens", found.tokens.median, limits.max_median_tokens, text)
    for name, ids, most in (
        ("max_leaks", found.leak_ids, limits.max_leaks),
        ("max_incomplete", found.incomplete_ids, limits.max_incomplete),
        ("max_repeats", found.repeat_ids, limits.max_repeats),
        ("records_match", found.mismatched_ids, 0),
    ):
        if len(ids) > most:
            yield Failure(name, len(ids), most, f"{name}: {len(ids)} is more than {most}, first {', '.join(ids[:5])}")
    for name, acceptance, least in (
        ("min_instruction_acceptance", found.instruction_acceptance, limits.min_instruction_acceptance),
        ("min_pair_acceptance", found.pair_acceptance, limits.min_pair_acceptance),
    ):
        if acceptance.rate.value is None or acceptance.rate.value < least:
            yield _failure(name, acceptance.rate, "is less than", least)


def _failure(name: str, rate: Rate, relation: str, limit: float) -> Failure:
    shown = "nothing to count" if rate.value is None else f"{rate.value:.1%} ({rate.count} of {rate.total})"
    return Failure(name, rate.value, limit, f"{name}: {shown} {relation} {limit:.1%}")


def _runaway_rule(text: str, limits: Thresholds) -> str:
    finding = runaway(Subject("", text), limits.max_characters)
    return finding.rule if finding else ""


def _counts(instructions: Sequence[Instruction], candidates: Sequence[Candidate]) -> dict[str, int]:
    outcomes = Counter(candidate.outcome for candidate in candidates)
    mark = Frame.delimiter.strip()[:3]
    found = sum(mark in candidate.raw_text for candidate in candidates)
    return {
        "instructions": len(instructions),
        "instructions_judged": sum(item.critique is not None for item in instructions),
        "generated": len(candidates),
        "judged": sum(candidate.pair_critique is not None for candidate in candidates),
        "kept": outcomes["kept"],
        "rejected": outcomes["rejected"],
        "dropped": outcomes["dropped"],
        "set_aside": outcomes["set_aside"],
        "passed_over": outcomes["passed_over"],
        "undecided": outcomes["generated"],
        "delimiter_found": found,
        "delimiter_missing": len(candidates) - found,
        "heuristic_cutoff": sum(bool(set(candidate.cleaning) - {"delimiter"}) for candidate in candidates),
        "hit_token_limit": sum(candidate.hit_limit for candidate in candidates),
    }


def _acceptance(critiques: Iterable[Critique | None]) -> Acceptance:
    good = bad = unsure = 0
    for critique in critiques:
        if critique is not None:
            good += critique.accepted
            unsure += not critique.confident
            bad += critique.confident and not critique.is_good
    return Acceptance(good, bad, unsure)


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(0.0, 0.0, 0.0, 0.0, 0.0, 0)
    array = np.asarray(values, dtype=float)
    p95 = float(np.quantile(array, 0.95))
    return Spread(
        float(np.median(array)), float(array.mean()), p95, float(array.min()), float(array.max()), len(values)
    )


def _margins(instructions: Sequence[Instruction], candidates: Sequence[Candidate]) -> dict[str, Margins]:
    values: dict[str, list[float]] = {}
    for item in instructions:
        if item.critique:
            values.setdefault(f"instruction.{item.critique.critic}", []).append(item.critique.signed_margin)
    for candidate in candidates:
        for critique in (candidate.pair_critique, *candidate.other_critiques):
            if critique:
                values.setdefault(f"pair.{critique.critic}", []).append(critique.signed_margin)
    return {name: _distribution(found) for name, found in sorted(values.items())}


def _distribution(values: Sequence[float]) -> Margins:
    array = np.asarray(values, dtype=float)
    counts, edges = np.histogram(array, bins=10)
    quantiles = {f"p{round(q * 100):02d}": float(np.quantile(array, q)) for q in _QUANTILES}
    return Margins(len(values), quantiles, tuple(map(float, edges)), tuple(map(int, counts)))


def _decisions(instructions: Sequence[Instruction], candidates: Sequence[Candidate]) -> Counter[str]:
    found = Counter(f"instruction.{item.part}.{item.reason}" for item in instructions if item.reason)
    found.update(f"response.{candidate.part}.{candidate.reason}" for candidate in candidates if candidate.reason)
    return found


def _types(candidates: Sequence[Candidate]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for candidate in candidates:
        row = table.setdefault(candidate.type, {"generated": 0, "judged": 0, "accepted": 0, "kept": 0})
        row["generated"] += 1
        row["judged"] += candidate.pair_critique is not None
        row["accepted"] += candidate.pair_critique is not None and candidate.pair_critique.accepted
        row["kept"] += candidate.outcome == "kept"
    return dict(sorted(table.items()))


def _repeats(kept: Sequence[Candidate]) -> tuple[str, ...]:
    seen: set[str] = set()
    repeats = []
    for candidate in kept:
        folded = fold(candidate.instruction)
        if folded in seen:
            repeats.append(candidate.id)
        seen.add(folded)
    return tuple(repeats)


def _mismatched(kept: Sequence[Candidate], records: Sequence[SftRecord] | None) -> tuple[str, ...]:
    """Ids on either side without an equal on the other, and kept candidates that no critic accepted."""
    unaccepted = [c.id for c in kept if c.pair_critique is not None and not c.pair_critique.accepted]
    if records is None:
        return tuple(unaccepted)
    wanted = Counter((c.instruction, c.response, c.prompt, c.num_response_tokens) for c in kept)
    stored = Counter((r.instruction, r.response, r.prompt, r.num_response_tokens) for r in records)
    lost = [c.id for c in kept if (c.instruction, c.response, c.prompt, c.num_response_tokens) not in stored]
    extra = [r.id for r in records if (r.instruction, r.response, r.prompt, r.num_response_tokens) not in wanted]
    doubled = [r.id for r in records if stored[(r.instruction, r.response, r.prompt, r.num_response_tokens)] > 1]
    return tuple(dict.fromkeys([*unaccepted, *lost, *extra, *doubled]))
