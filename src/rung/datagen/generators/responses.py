"""Responses in the canonical frame, with few-shot examples drawn at random from a few sets per type and seed.

Candidates that share a set share the beginning of their prompt, which an engine computes once.

The prompt stored in a candidate is the very string that was sent. Several candidates of one instruction have their
own seeds; exact repeats among them are collapsed and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rung.base.seeds import derive, stream
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.pool import Pool
from rung.records.chat.frame import Frame
from rung.records.contracts import Completer, Completion, Request, Sampling
from rung.records.types import Candidate, Drop, Instruction, record_id

__all__ = ["Responses"]


@dataclass(frozen=True, slots=True)
class _Generated:
    """Candidates in the order of their instructions, and the repeats that were collapsed."""

    candidates: tuple[Candidate, ...]
    dropped: tuple[Drop, ...]
    num_generated_tokens: int


class Responses:
    """Answers instructions.

    Args:
        completer: continues the prompts.
        pool: where few-shot examples come from.
    """

    class Settings(BaseSettings):
        """How responses are sampled; nothing here touches how instructions are made."""

        num_examples: int = Field(default=3, ge=0, le=20, description="few-shot examples in a prompt")
        num_same_type: int = Field(default=1, ge=0, le=20, description="how many of them share the instruction's type")
        num_example_sets: int = Field(
            default=4, ge=1, le=1000, description="sets of examples drawn per type and seed; a candidate takes one"
        )
        num_candidates: int = Field(default=1, ge=1, le=64, description="responses drawn per instruction")
        temperature: float = Field(default=0.4, ge=0, le=2, description="of the sampling")
        top_p: float = Field(default=0.9, gt=0, le=1, description="of the sampling")
        repetition_penalty: float = Field(default=1.1, ge=1, le=2, description="of the sampling")
        max_new_tokens: int = Field(default=100, ge=1, description="limit of one response")
        max_new_tokens_by_type: Mapping[str, int] = Field(
            default_factory=dict, description="other limits for types that need them"
        )

    def __init__(self, settings: Settings, *, completer: Completer, pool: Pool) -> None:
        self.settings, self._completer, self._pool = settings, completer, pool

    def generate(self, instructions: Sequence[Instruction], seed: int) -> _Generated:
        """`num_candidates` responses per instruction, less the exact repeats; not cleaned and not judged yet.

        A candidate depends on (instruction, its number, seed) alone, never on what else is asked.
        """
        plan = [(item, number) for item in instructions for number in range(self.settings.num_candidates)]
        requests = [self._request(item, number, seed) for item, number in plan]
        completions = self._completer.complete(requests)
        kept: list[Candidate] = []
        dropped: list[Drop] = []
        first: dict[tuple[str, str], str] = {}
        for (item, _), request, completion in zip(plan, requests, completions, strict=True):
            candidate = _candidate(item, request, completion)
            earlier = first.setdefault((item.id, candidate.response), candidate.id)
            if earlier == candidate.id:
                kept.append(candidate)
            else:
                span = (0, len(candidate.response))
                detail = {"repeats": earlier, "num_raw_tokens": candidate.num_raw_tokens}
                dropped.append(Drop(candidate.id, candidate.response, "responses", "same_as_sibling", span, detail))
        num_tokens = sum(len(completion.token_ids) for completion in completions)
        return _Generated(tuple(kept), tuple(dropped), num_tokens)

    def _request(self, instruction: Instruction, number: int, seed: int) -> Request:
        settings = self.settings
        own_seed = derive(seed, "responses", instruction.id, number)
        number_of_set = derive(own_seed, "set") % settings.num_example_sets
        random = stream(seed, "examples", instruction.type, number_of_set)
        shots = self._pool.shots(settings.num_examples, random, instruction.type, settings.num_same_type)
        sampling = Sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            repetition_penalty=settings.repetition_penalty,
            max_new_tokens=settings.max_new_tokens_by_type.get(instruction.type, settings.max_new_tokens),
            stop=Frame.stop_strings,
        )
        return Request(f"{instruction.id}-{number}", sampling, own_seed, Frame.prompt(instruction.text, shots))


def _candidate(instruction: Instruction, request: Request, completion: Completion) -> Candidate:
    return Candidate(
        id=record_id("candidate", instruction.id, request.seed, request.text),
        instruction_id=instruction.id,
        instruction=instruction.text,
        type=instruction.type,
        prompt=request.text,
        seed=request.seed,
        raw_text=completion.raw_text,
        generated=completion.text,
        response=completion.text.strip(),
        finish_reason=completion.finish_reason,
        num_raw_tokens=len(completion.token_ids),
        instruction_critique=instruction.critique,
        source=instruction.source,
    )
