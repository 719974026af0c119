"""What data is: one frozen dataclass per record type, each readable from and writable to one JSON line.

A record type is named in manifests by `RECORD_TYPES`; adding one means adding a dataclass and its name there.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rung.base.errors import DataError
from rung.base.fingerprint import content_hash, plain

__all__ = [
    "RECORD_TYPES",
    "Answer",
    "Candidate",
    "Critique",
    "Dialogue",
    "Document",
    "Drop",
    "Instruction",
    "Message",
    "PairReward",
    "PreferencePair",
    "RepairTask",
    "RolloutRecord",
    "SftRecord",
    "Story",
    "TestItem",
    "from_plain",
    "record_id",
    "to_plain",
]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction the model wrote: where it stood in which completion, and the prompt that was really sent.

    `critique` is the judgement of the instruction alone, stored for rejected ones too; `outcome` is "parsed" until
    something decides ("accepted", "rejected", "dropped"), with the deciding `part` and its `reason`.
    """

    id: str
    text: str
    type: str
    prompt_hash: str
    seed: int
    source: str = "model"
    critique: Critique | None = None
    outcome: str = "parsed"
    part: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Critique:
    """A judgement between A (good) and B (bad) by log-probability.

    `logp_a` and `logp_b` are natural logs. For the choice critic they are those of the letters; for information gain
    they are the mean per response token with and without the instruction. `signed_margin` = logp_a - logp_b,
    `margin` its absolute value, `calibrated_margin` the signed one less that of a content-free input (None when not
    computed). `confidence_threshold` is what `confident` was decided by. `decision` is the number that was held
    against the threshold where that is not the signed margin (None: it is).
    """

    critic: str
    is_good: bool
    confident: bool
    predicted_label: str
    logp_a: float
    logp_b: float
    margin: float
    signed_margin: float
    confidence_threshold: float
    calibrated_margin: float | None = None
    reason: str = ""
    decision: float | None = None

    @property
    def rank(self) -> float:
        """What candidates are ordered by: the number that decided."""
        return self.signed_margin if self.decision is None else self.decision

    @property
    def accepted(self) -> bool:
        """Good and confident; low confidence is a rejection."""
        return self.is_good and self.confident


@dataclass(frozen=True, slots=True)
class Candidate:
    """One generated response, kept or not: everything that quality control recomputes its figures from.

    `raw_text` is all that was decoded, `generated` the same cut at the stop string, `response` what cleaning left of
    it, with the names of the rules that changed it in `cleaning`. `num_raw_tokens` counts what the model drew,
    `num_response_tokens` the cleaned response in the model's own tokens (-1: not counted yet). `outcome` is
    "generated" until something decides: "kept", "rejected" (the critic), "dropped" (a filter), "set_aside" (for
    another stage) or "passed_over" (a sibling was better), with the deciding `part` and its `reason`.
    """

    id: str
    instruction_id: str
    instruction: str
    type: str
    prompt: str
    seed: int
    raw_text: str
    generated: str
    response: str
    finish_reason: str
    num_raw_tokens: int
    num_response_tokens: int = -1
    cleaning: tuple[str, ...] = ()
    instruction_critique: Critique | None = None
    pair_critique: Critique | None = None
    other_critiques: tuple[Critique, ...] = ()
    outcome: str = "generated"
    part: str = ""
    reason: str = ""
    shard: int = 0
    source: str = "model"

    @property
    def hit_limit(self) -> bool:
        """Whether the token limit ended the raw generation."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class SftRecord:
    """An instruction with its response, the strings used, both critiques and the full metadata of its making.

    `prompt` is the string that was sent when the response was generated; `training_prompt` and `completion` are what
    training sees, in the canonical frame. `earlier` are the turns of a conversation before this one (user and assistant
    in turn); they are read and not trained on, for each answer has a record of its own.
    """

    id: str
    instruction: str
    response: str
    type: str
    prompt: str
    training_prompt: str
    completion: str
    raw_response: str
    finish_reason: str
    num_response_tokens: int
    instruction_critique: Critique | None
    pair_critique: Critique | None
    source: str = "model"
    rejects: tuple[Mapping[str, Any], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    earlier: tuple[Message, ...] = ()

    @property
    def earlier_pairs(self) -> list[tuple[str, str]]:
        """The turns before as (instruction, response) pairs."""
        turns = self.earlier
        return [(turns[n].content, turns[n + 1].content) for n in range(0, len(turns) - 1, 2)]


@dataclass(frozen=True, slots=True)
class Drop:
    """Something that was left out, with the part that dropped it, the reason and the matched span of its text."""

    id: str
    text: str
    part: str
    reason: str
    span: tuple[int, int] | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TestItem:
    """A held-out instruction whose answer can be checked: `checks` maps a verifier's name to its settings.

    All checks must pass. `family` groups items made from one pattern, the unit that statistics cluster by.
    """

    __test__ = False  # not a pytest class, whatever its name

    id: str
    instruction: str
    type: str
    family: str
    checks: Mapping[str, Mapping[str, Any]]
    reference: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One condition's answer to one test item, with the score and every check's verdict."""

    id: str
    item_id: str
    condition: str
    type: str
    prompt: str
    text: str
    finish_reason: str
    passed: bool
    abstained: bool
    verdicts: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to one instruction, the better one first.

    `kind` says where the rejected one comes from: "best_of_n" (a sibling that the critic ranked lower), or written to
    be worse: "unwarranted_refusal", "format_violation", "wrong_fact", "off_topic", "verbose". `prompt` is the canonical
    frame around the instruction, what training sees. Margins are signed, the numbers that the named critics rank by;
    None with an empty critic where none judged. `chosen_source` and `rejected_source` are the ids of the records or
    candidates that the texts come from; tokens are the model's own (-1: not counted). `metadata` is that of the
    chosen record, with the prompt and seed of a rejected text that was written for the pair.
    """

    id: str
    instruction: str
    type: str
    prompt: str
    chosen: str
    rejected: str
    kind: str
    chosen_source: str
    rejected_source: str
    chosen_margin: float | None = None
    rejected_margin: float | None = None
    chosen_critic: str = ""
    rejected_critic: str = ""
    num_chosen_tokens: int = -1
    num_rejected_tokens: int = -1
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairReward:
    """The implicit rewards that a trained policy gives the two responses of a held-out pair (`id` is the pair's).

    What a reward is, the objective says: for DPO it is beta times the log-probability of the response (nats, summed
    over its tokens) less that under the reference.
    """

    id: str
    kind: str
    chosen: float
    rejected: float
    num_chosen_tokens: int
    num_rejected_tokens: int

    @property
    def margin(self) -> float:
        """Positive when the policy prefers the chosen response."""
        return self.chosen - self.rejected

    @property
    def won(self) -> float:
        """What the pair adds to accuracy: 1 when the chosen reward is higher, a half when they are equal."""
        return 0.5 if self.margin == 0 else float(self.margin > 0)


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """One sampled answer of a policy, whether or not it was trained on, as it was judged.

    `step` counts batches from 1 (0: before training), `group` is the same for all answers to one prompt as it was drawn
    that time. `reward` is what was trained on, `parts` what each reward added to it with `raw.<part>` beside it,
    `accuracy` the verifier's value; each None where its scorer abstained. `advantage` is the mean over the trained
    tokens. `outcome` is "trained", "masked" (its tokens leave the loss), "pilot", or why its group was left out ("all
    right", "all wrong", "alike", "abstained", "surplus"). `sampled` says which of `token_ids` the policy drew, with
    `logprobs` (nats) of the distribution drawn from and `entropy` the mean over them.
    """

    id: str
    step: int
    group: int
    item_id: str
    type: str
    instruction: str
    text: str
    outcome: str
    reward: float | None = None
    accuracy: float | None = None
    advantage: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    truncated: bool = False
    entropy: float | None = None
    prompt_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    sampled: tuple[bool, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RewardReading:
    """What a reward model says of one answer, beside its labels.

    `attributes`, `labels` (shares of their scale, None: missing) and `values` (shares, one for each level of the model,
    or one alone) belong together. `group` is the instruction, `kind` names a planted flaw, `rank` orders the answers of
    a group (the higher the better; None: no order is known).
    """

    id: str
    group: str
    kind: str
    attributes: tuple[str, ...]
    labels: tuple[float | None, ...]
    values: tuple[tuple[float, ...], ...]
    num_tokens: int
    rank: float | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A text to learn from: its source, its licence, and the language it is in (of people or of programs; "" unknown).

    `meta` is what the source says of it, as JSON types.
    """

    id: str
    text: str
    source: str
    licence: str = ""
    language: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation of a published data set, in the order of its turns; `meta` is what the source says of it."""

    id: str
    messages: tuple[Message, ...]
    source: str
    licence: str = ""
    language: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RepairTask:
    """A problem in a repository at a commit, the patch that mended it, and the tests that tell (SWE-bench's layout).

    `fail_to_pass` fail before the patch and pass after it, `pass_to_pass` pass before and after; both name tests as
    the repository's runner does.
    """

    id: str
    repository: str
    base_commit: str
    problem: str
    patch: str
    test_patch: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    version: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Story:
    """One story that was written, kept or not, with what was asked for and how.

    `messages` are the turns that were sent, `seed` that of the sampling. `raw_text` is all that was decoded, `text` the
    story. `outcome` is "written" until something decides: "kept", "dropped" (by the validator in `part`, for `reason`)
    or "passed_over" (a sibling was better, or enough were kept). `parent` is the story, or its opening, that this one
    branched from. `num_tokens` counts what was drawn for this one alone.
    """

    id: str
    prompt_id: str
    number: int
    text: str
    words: tuple[str, ...]
    features: tuple[str, ...]
    level: int
    template: str
    template_version: str
    strategy: str
    messages: tuple[Message, ...]
    seed: int
    temperature: float
    raw_text: str
    finish_reason: str
    num_tokens: int
    outcome: str = "written"
    part: str = ""
    reason: str = ""
    parent: str = ""


RECORD_TYPES: dict[str, type] = {
    "instruction": Instruction,
    "candidate": Candidate,
    "sft": SftRecord,
    "drop": Drop,
    "test_item": TestItem,
    "answer": Answer,
    "pair": PreferencePair,
    "pair_reward": PairReward,
    "reward_reading": RewardReading,
    "rollout": RolloutRecord,
    "dialogue": Dialogue,
    "document": Document,
    "repair_task": RepairTask,
    "story": Story,
}


def record_id(*content: Any) -> str:
    """A record's identity from its content, 16 hexadecimal digits."""
    return content_hash(list(content))[:16]


def to_plain(record: Any) -> dict[str, Any]:
    """A record as JSON types."""
    return typing.cast("dict[str, Any]", plain(record))


def from_plain(kind: type, values: Mapping[str, Any], place: str = "") -> Any:
    """Rebuild a record from JSON types.

    Raises:
        DataError: a missing or unknown field, or a value of the wrong type, named with `place`.
    """
    known = {f.name: f for f in dataclasses.fields(kind)}
    hints = _hints(kind)
    if unknown := sorted(values.keys() - known.keys()):
        raise DataError(f"unknown field '{unknown[0]}' in a {kind.__name__}", place=place, hint="rung migrate")
    built = {}
    for name, spec in known.items():
        if name in values:
            built[name] = _convert(hints[name], values[name], f"{place}.{name}" if place else name)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise DataError(f"field '{name}' is missing from a {kind.__name__}", place=place)
    return kind(**built)


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    """Resolved annotations; resolving them anew for every record took most of the time of reading a shard."""
    return typing.get_type_hints(kind)


def _convert(hint: Any, value: Any, place: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, place)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_plain(typing.cast(type, hint), value, place)
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = arguments[0]
        return tuple(_convert(inner, item, f"{place}[{i}]") for i, item in enumerate(value))
    expected: Any = Mapping if origin is not None and issubclass(origin, Mapping) else hint
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, expected) and not (expected is int and isinstance(value, bool))):
        return value
    raise DataError(f"expected {getattr(hint, '__name__', hint)}, got {value!r:.60}", place=place)
