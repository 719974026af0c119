"""Hard negatives: which of the responses that a model wrote to be bad really are, each in its way, and in which shares.

A negative teaches only what it is wrong about, so it must be wrong, wrong in the named way, and not merely broken. What
a rule of wording can see is looked at here; whether a text refuses, whether it is right and how a critic ranks it are
for the scorers that the caller lends. Refusals to instructions of type "safety" are not unwarranted: none is asked for.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic

from rung.base.seeds import derive, stream
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import apply_filters, subject_of
from rung.datagen.heuristics import echo
from rung.datagen.preferences import Side, pair_of
from rung.datagen.wording import fold, words
from rung.records.contracts import Item, Scorer, Trace
from rung.records.types import Candidate, Critique, PreferencePair, SftRecord

__all__ = ["KINDS", "Lent", "MadeNegatives", "NegativeSettings", "check_negatives", "make_negatives", "quotas"]

KINDS = ("unwarranted_refusal", "format_violation", "wrong_fact", "off_topic", "verbose")
_NOT_FOR = {"unwarranted_refusal": ("safety",), "wrong_fact": ("creative", "safety")}
_PART = "hard_negatives"
_FIRST_GUESS = 0.4  # share of negatives that pass the checks, before any was seen
_NUMBERED, _BULLET = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE), re.compile(r"^\s*[-*\u2022]\s", re.MULTILINE)


class NegativeSettings(BaseSettings):
    """How many negatives of which kind, and when one counts."""

    per_record: float = Field(1.0, ge=0, le=5, description="negatives per training record; 0: none, and no model call")
    shares: Mapping[str, float] = Field(
        {"unwarranted_refusal": 0.3, "format_violation": 0.25, "wrong_fact": 0.2, "off_topic": 0.15, "verbose": 0.1},
        description="kinds and their relative shares",
    )
    max_rounds: int = Field(6, ge=1, le=50, description="rounds of asking before a shortfall is stated")
    min_gap: float = Field(0.1, ge=0, description="least difference of signed margins, where a critic judges negatives")
    min_verbose_ratio: float = Field(2.0, gt=1, description="tokens of a verbose response over those of the chosen one")
    max_overlap: float = Field(
        0.34, ge=0, le=1, description="share of the instruction's content words from which on a reply is on the topic"
    )

    @pydantic.model_validator(mode="after")
    def _known_shares(self) -> NegativeSettings:
        unknown = sorted(set(self.shares) - set(KINDS))
        if unknown:
            raise ValueError(f"no kind of negative is called '{unknown[0]}', known: {', '.join(KINDS)}")
        if min(self.shares.values(), default=0.0) < 0 or not sum(self.shares.values()) > 0:
            raise ValueError("shares must not be negative, and at least one is above 0")
        return self


@dataclass(frozen=True, slots=True)
class Lent:
    """What the caller lends to the checks.

    `refusals` scores 0 what opens with a refusal. `verifier` scores 1 what is right, and is asked only about records
    with `checks` in their metadata. `critic` judged the chosen responses; without one, negatives carry no margin.
    `filters` are named parts that drop what is merely broken.
    """

    count_tokens: Callable[[Sequence[str]], list[int]]
    refusals: Scorer
    verifier: Scorer | None = None
    critic: Any = None
    filters: Sequence[tuple[str, Any]] = ()


@dataclass
class MadeNegatives:
    """Every response that was asked for, decided; `shortfall` says by kind how many are missing at the end."""

    candidates: list[Candidate] = field(default_factory=list)
    shortfall: dict[str, int] = field(default_factory=dict)
    num_tokens: int = 0

    def kept(self, kind: str = "") -> list[Candidate]:
        """Kept negatives in order, of one kind when it is named."""
        return [one for one in self.candidates if one.outcome == "kept" and kind in ("", one.source)]

    def pairs(self, records: Mapping[str, SftRecord]) -> list[PreferencePair]:
        """The pairs of kept negatives; `records` by id."""
        return [_pair(records[one.instruction_id], one) for one in self.kept()]


def quotas(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """`count` parted in proportion to `shares`, by largest remainder (ties to the kind named first)."""
    total = sum(shares.values())
    exact = {kind: count * share / total for kind, share in shares.items()}
    parted = {kind: math.floor(value) for kind, value in exact.items()}
    rest = sorted(exact, key=lambda kind: parted[kind] - exact[kind])
    for kind in rest[: count - sum(parted.values())]:
        parted[kind] += 1
    return parted


def make_negatives(
    generator: Any,
    records: Sequence[SftRecord],
    lent: Lent,
    settings: NegativeSettings,
    *,
    seed: int,
    known: Collection[tuple[str, str]] = (),
    between_rounds: Callable[[MadeNegatives], None] = lambda so_far: None,
) -> MadeNegatives:
    """Ask for negatives round after round until every kind has its quota, or rounds run out.

    A kind goes through the records in its own seeded order, over and over, and keeps at most one negative of a record.
    What is kept beyond a quota is passed over. `known` are (record id, rejected text) of pairs that exist already;
    `between_rounds` is called with what was made so far before every round but the first.
    """
    made, by_id = MadeNegatives(), {record.id: record for record in records}
    wanted = quotas(settings.shares, round(settings.per_record * len(records)))
    orders = {kind: _order(kind, records, seed) for kind in wanted}
    asked = dict.fromkeys(wanted, 0)
    for number in range(settings.max_rounds):
        plan: list[tuple[SftRecord, str]] = []
        for kind, quota in wanted.items():
            chosen = _next(orders[kind], asked[kind], quota, made.kept(kind))
            asked[kind] += len(chosen)
            plan += [(record, kind) for record in chosen]
        if not plan:
            break
        if number:
            between_rounds(made)
        written = generator.generate(plan, derive(seed, "round", number))
        made.num_tokens += written.num_generated_tokens
        made.candidates += check_negatives(written.candidates, by_id, lent, settings)
        made.candidates = _within(made.candidates, wanted, known)
    made.shortfall = {kind: n - len(made.kept(kind)) for kind, n in wanted.items() if len(made.kept(kind)) < n}
    return made


def check_negatives(
    candidates: Sequence[Candidate], records: Mapping[str, SftRecord], lent: Lent, settings: NegativeSettings
) -> list[Candidate]:
    """The candidates decided, in their order: kept, or dropped with the reason; a critic's judgement is added.

    Args:
        candidates: fresh ones, their kind in `source`, the record that they are the worse answer to in
            `instruction_id`.
        records: the records by id.
        lent: see `Lent`.
        settings: limits.
    """
    filtered = apply_filters(lent.filters, candidates)
    counts = lent.count_tokens([one.response for one in filtered.kept])
    counted = [dataclasses.replace(one, num_response_tokens=n) for one, n in zip(filtered.kept, counts, strict=True)]
    reasons = [_broken(one, records[one.instruction_id]) or _unlike(one, records, settings) for one in counted]
    scored = _scored(counted, records, lent, reasons)
    critiques = _critiques(counted, lent.critic, scored)
    decided = {}
    for one, reason, critique in zip(counted, scored, critiques, strict=True):
        why = reason or _ranked(critique, records[one.instruction_id], settings)
        decided[one.id] = dataclasses.replace(
            one, pair_critique=critique, outcome="dropped" if why else "kept", part=_PART, reason=why
        )
    decided |= {one.id: one for one in filtered.decided}
    return [decided[one.id] for one in candidates]


def _broken(negative: Candidate, record: SftRecord) -> str:
    """Why a text is no answer at all, or not another one than the chosen; empty when it is."""
    text, good = negative.response.strip(), record.response.strip()
    same_words = negative.source != "format_violation" and fold(text) == fold(good)
    if not fold(text):
        return "empty"
    if text == good or same_words:
        return "equals_chosen"
    if negative.finish_reason == "length":
        return "cut_off"
    return "copies_example" if echo(subject_of(negative)) else ""


def _unlike(negative: Candidate, records: Mapping[str, SftRecord], settings: NegativeSettings) -> str:
    """Why a text is not bad in the way of its kind; empty when the wording says nothing against it."""
    record, kind = records[negative.instruction_id], negative.source
    text, good = negative.response, record.response
    if kind == "format_violation":
        aside = not _content(text) & (_content(record.instruction) | _content(good))
        return "keeps_the_form" if _form(text) == _form(good) else "off_the_topic" if aside else ""
    if kind == "wrong_fact":
        said, right = f" {fold(text)} ", f" {fold(good)} "
        return "holds_the_chosen_answer" if right in said or said in right else ""
    if kind == "off_topic":
        asked = _content(record.instruction) | _content(good)
        shared = len(_content(text) & asked) / max(1, len(_content(record.instruction)))
        return "on_the_topic" if shared >= settings.max_overlap else ""
    if kind == "verbose":
        least = settings.min_verbose_ratio * record.num_response_tokens
        return "not_longer" if negative.num_response_tokens < least else ""
    return ""


def _scored(
    negatives: Sequence[Candidate], records: Mapping[str, SftRecord], lent: Lent, reasons: Sequence[str]
) -> list[str]:
    """The reasons, with those of scorers where there was none: refusing (or not), and being right after all.

    A verbose answer may be right: its length is what is wrong with it.
    """
    left = [n for n, reason in enumerate(reasons) if not reason]
    items = [_item(negatives[n], records) for n in left]
    traces = [Trace(item.id, negatives[n].response) for n, item in zip(left, items, strict=True)]
    found = list(reasons)
    for n, score in zip(left, lent.refusals.score(items, traces), strict=True):
        refuses, should = score.value == 0.0, negatives[n].source == "unwarranted_refusal"
        found[n] = "" if refuses == should else "refuses" if refuses else "does_not_refuse"
    if lent.verifier is not None:
        able = [k for k, item in enumerate(items) if item.reference and negatives[left[k]].source != "verbose"]
        scores = lent.verifier.score([items[k] for k in able], [traces[k] for k in able])
        for k, score in zip(able, scores, strict=True):
            found[left[k]] = found[left[k]] or ("verifier_says_right" if score.value == 1.0 else "")
    return found


def _item(negative: Candidate, records: Mapping[str, SftRecord]) -> Item:
    checks = records[negative.instruction_id].metadata.get("checks")
    return Item(negative.id, negative.instruction, negative.type, {"checks": checks} if checks else {})


def _critiques(negatives: Sequence[Candidate], critic: Any, reasons: Sequence[str]) -> list[Critique | None]:
    """The critic's judgement of every negative that nothing was said against yet."""
    left = [n for n, reason in enumerate(reasons) if not reason] if critic is not None else []
    found: list[Critique | None] = [None] * len(negatives)
    if left:
        items = [Item(negatives[n].id, negatives[n].instruction, negatives[n].type) for n in left]
        traces = [Trace(negatives[n].id, negatives[n].response) for n in left]
        for n, critique in zip(left, critic.critique(items, traces), strict=True):
            found[n] = critique
    return found


def _ranked(critique: Critique | None, record: SftRecord, settings: NegativeSettings) -> str:
    """Why the critic does not put the negative below the chosen response; empty when it does, or nobody was asked."""
    if critique is None or record.pair_critique is None:
        return ""
    gap = record.pair_critique.rank - critique.rank
    return "critic_prefers_it" if gap <= 0 else "low_confidence" if gap < settings.min_gap else ""


def _pair(record: SftRecord, negative: Candidate) -> PreferencePair:
    good, bad = record.pair_critique, negative.pair_critique
    chosen = Side(
        record.response, record.id, good.rank if good else None, good.critic if good else "", record.num_response_tokens
    )
    rejected = Side(
        negative.response, negative.id, bad.rank if bad else None, bad.critic if bad else "",
        negative.num_response_tokens,
    )  # fmt: skip
    return pair_of(record, negative.source, chosen, rejected, {"negative_seed": negative.seed})


def _order(kind: str, records: Sequence[SftRecord], seed: int) -> list[SftRecord]:
    fit = [record for record in records if record.type not in _NOT_FOR.get(kind, ())]
    stream(seed, "order", kind).shuffle(fit)
    return fit


def _next(order: Sequence[SftRecord], asked: int, quota: int, kept: Sequence[Candidate]) -> list[SftRecord]:
    """Records to ask about next: as many as should yield what is missing, at the yield so far."""
    missing, done = quota - len(kept), {one.instruction_id for one in kept}
    expected = (len(kept) + 6 * _FIRST_GUESS) / (asked + 6)
    count = min(len(order), math.ceil(missing / max(expected, 0.05))) if missing > 0 else 0
    turned = [order[(asked + n) % len(order)] for n in range(len(order))]
    return [record for record in turned if record.id not in done][:count]


def _within(
    candidates: Sequence[Candidate], wanted: Mapping[str, int], known: Collection[tuple[str, str]]
) -> list[Candidate]:
    """The candidates with kept ones beyond their quota passed over, and repeats of one pair dropped."""
    left, seen, found = dict(wanted), set(known), []
    for one in candidates:
        if one.outcome == "kept":
            key = (one.instruction_id, one.response)
            if key in seen:
                one = dataclasses.replace(one, outcome="dropped", reason="repeat")
            elif left[one.source] <= 0:
                one = dataclasses.replace(one, outcome="passed_over", reason="count_reached")
            else:
                seen.add(key)
                left[one.source] -= 1
        found.append(one)
    return found


def _content(text: str) -> set[str]:
    """Words of four letters or more, and numbers: what a text is about, roughly."""
    return {word for word in words(text) if len(word) > 3 or word.isdigit()}


def _form(text: str) -> tuple[Any, ...]:
    """What a text looks like, whatever it says: lines, list marks, braces, capitals, commas, one word or not."""
    lines, letters = [line for line in text.splitlines() if line.strip()], [c for c in text if c.isalpha()]
    return (
        len(lines),
        bool(_NUMBERED.search(text)),
        bool(_BULLET.search(text)),
        text.lstrip().startswith(("{", "[")),
        bool(letters) and all(c.isupper() for c in letters),
        text.count(",") if len(lines) == 1 else 0,
        len(text.split()) == 1,
    )
