"""Make one shard of training data: instructions, responses, cleaning, critic, until enough were kept.

Everything a shard does follows from its seed and target, never from other shards, so that shards made in parallel, in
another order or after an interruption are the same to the byte.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.base.seeds import derive
from rung.base.turns import take_turns
from rung.datagen.assemble import choose, count_tokens, sft_record
from rung.datagen.findings import apply_filters
from rung.records.contracts import Completer, Item, Trace
from rung.records.types import Candidate, Critique, Drop, Instruction, SftRecord

__all__ = ["FIRST_GUESS", "Made", "Parts", "make_shard"]

# A round of one or two calls takes nearly as long as one of eight, and what is too much is passed over.
_LEAST_CALLS = 8
# Kept records per line that the model writes, before anything was measured.
FIRST_GUESS = 1 / 3
# Another round for the few that are missing costs more (35 s in the quickstart, at one record) than some too many.
_MARGIN = 1.4


@dataclass(frozen=True)
class Parts:
    """What a shard is made with. Filters are fresh for every shard (some remember what they kept).

    `advisory` names filters that flag and do not drop; `instruction_critic` may be None: then no critic of
    instructions was fit to gate, and none is asked. `kept_per_line` sizes the first round: kept records per line that
    the model writes, as a pilot measured it.
    """

    completer: Completer
    instructions: Any
    responses: Any
    instruction_filters: Sequence[tuple[str, Any]]
    response_filters: Sequence[tuple[str, Any]]
    critic: Any
    instruction_critic: Any
    metadata: Mapping[str, Any]
    advisory: frozenset[str] = frozenset()
    kept_per_line: float = FIRST_GUESS


@dataclass
class Made:
    """What a shard consists of so far."""

    instructions: list[Instruction] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    dropped: list[Drop] = field(default_factory=list)
    num_tokens: int = 0
    num_lines: int = 0

    @property
    def kept(self) -> list[Candidate]:
        """Kept candidates in order."""
        return [candidate for candidate in self.candidates if candidate.outcome == "kept"]

    def records(self, metadata: Mapping[str, Any]) -> list[SftRecord]:
        """The training records, each with its rejected siblings."""
        siblings: dict[str, list[Candidate]] = {}
        for candidate in self.candidates:
            siblings.setdefault(candidate.instruction_id, []).append(candidate)
        return [
            sft_record(one, [s for s in siblings[one.instruction_id] if s.id != one.id], metadata) for one in self.kept
        ]


def make_shard(parts: Parts, target: int, seed: int, max_rounds: int, after_round: Callable[[Made], None]) -> Made:
    """Rounds of generation until `target` records are kept, or `max_rounds` is reached (the caller states a shortfall).

    `after_round` is called with what was made so far; what it raises ends the shard, and nothing of it is saved.
    """
    made = Made()
    for number in range(max_rounds):
        missing = target - len(made.kept)
        if missing <= 0:
            break
        _round(parts, made, _num_calls(parts, made, missing), derive(seed, "round", number))
        after_round(made)
    needed = {candidate.id for candidate in _balanced(made.kept, target)}
    made.candidates = [_unneeded(c) if c.outcome == "kept" and c.id not in needed else c for c in made.candidates]
    return made


def _balanced(kept: Sequence[Candidate], target: int) -> list[Candidate]:
    """`target` of the kept, types taking turns: a model writes some types far more often than others."""
    by_type: dict[str, list[Candidate]] = {}
    for candidate in kept:
        by_type.setdefault(candidate.type, []).append(candidate)
    return take_turns(by_type.values(), target)


def _num_calls(parts: Parts, made: Made, missing: int) -> int:
    """List continuations expected to yield `missing` kept records and a few more: at the share of lines that was kept
    so far, the first guess weighing as much as six lines."""
    share = (len(made.kept) + 6 * parts.kept_per_line) / (made.num_lines + 6)
    num_taken: int = parts.instructions.settings.num_taken
    return max(_LEAST_CALLS, min(64, math.ceil(_MARGIN * missing / max(share, 0.05) / num_taken)))


def _round(parts: Parts, made: Made, num_calls: int, seed: int) -> None:
    known = [instruction.text for instruction in made.instructions if instruction.outcome == "accepted"]
    written = parts.instructions.generate(num_calls, seed, known)
    made.num_tokens += written.num_generated_tokens
    made.num_lines += len(written.instructions)
    sifted = apply_filters(parts.instruction_filters, written.instructions, parts.advisory)
    judged = _judge_instructions(parts.instruction_critic, sifted.kept)
    accepted = [one for one in judged if one.outcome == "accepted"]
    answered = parts.responses.generate(accepted, seed)
    made.num_tokens += answered.num_generated_tokens
    cleaned = apply_filters(parts.response_filters, answered.candidates, parts.advisory)
    counted = count_tokens([*cleaned.kept, *cleaned.decided], parts.completer.count_tokens)
    fit, unfit = counted[: len(cleaned.kept)], counted[len(cleaned.kept) :]
    made.instructions += [*judged, *sifted.decided]
    made.candidates += [*choose(_judge_pairs(parts.critic, fit)), *unfit]
    made.dropped += [*written.dropped, *sifted.dropped, *answered.dropped, *cleaned.dropped]


def _judge_instructions(critic: Any, instructions: Sequence[Instruction]) -> list[Instruction]:
    if critic is None or not instructions:
        return [dataclasses.replace(one, outcome="accepted", part="filters") for one in instructions]
    items = [Item(one.id, one.text, one.type) for one in instructions]
    critiques = critic.critique(items, [Trace(item.id, "") for item in items])
    return [_decided(one, critique) for one, critique in zip(instructions, critiques, strict=True)]


def _decided(instruction: Instruction, critique: Critique) -> Instruction:
    outcome = "accepted" if critique.accepted else "rejected"
    reason = "" if critique.accepted else "bad" if critique.confident else "low_confidence"
    return dataclasses.replace(instruction, critique=critique, outcome=outcome, part=critique.critic, reason=reason)


def _judge_pairs(critic: Any, candidates: Sequence[Candidate]) -> list[Candidate]:
    if not candidates:
        return []
    items = [Item(one.id, one.instruction, one.type) for one in candidates]
    critiques = critic.critique(items, [Trace(one.id, one.response) for one in candidates])
    return [dataclasses.replace(one, pair_critique=c) for one, c in zip(candidates, critiques, strict=True)]


def _unneeded(candidate: Candidate) -> Candidate:
    return dataclasses.replace(candidate, outcome="passed_over", part="bootstrap", reason="count_reached")
