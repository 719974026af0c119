"""Responses that are bad in one named way, written by the model itself: few-shot examples of the way, then the request.

Every response is the model's own continuation; the examples (`sources/hard_negatives.yaml`) only show the pattern, and
copies of them are dropped later. Whether a response really is bad in that way is for `datagen.negatives` to check: a
small model often answers rightly whatever it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rung.base.seeds import derive, stream
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.pool import load_pool
from rung.records.chat.frame import Frame
from rung.records.contracts import Completer, Completion, Request, Sampling
from rung.records.types import Candidate, SftRecord, record_id

__all__ = ["HardNegatives"]

_OPENINGS = {
    "unwarranted_refusal": "An overcautious assistant. It refuses harmless requests and names what it will not do.",
    "format_violation": "A careless assistant. It stays on the subject and ignores the form that was asked for.",
    "wrong_fact": "A false assistant. It answers briefly and surely, and what it says is never true.",
    "off_topic": "A confused assistant. Whatever it is asked, it talks about something that has nothing to do with it.",
    "verbose": "A long-winded assistant. It says in a long paragraph what a few words would say.",
}


@dataclass(frozen=True, slots=True)
class _Generated:
    """Candidates in the order they were asked for."""

    candidates: tuple[Candidate, ...]
    num_generated_tokens: int


class HardNegatives:
    """Asks a completer for bad responses to the instructions of records.

    Args:
        completer: continues the prompts.
    """

    class Settings(BaseSettings):
        """How bad responses are sampled; nothing here touches how good ones are."""

        examples: str = Field("hard_negatives", description="a shipped pool typed by the ways, or a YAML file by path")
        num_examples: int = Field(4, ge=1, le=20, description="few-shot examples in a prompt; fewer where there are")
        temperature: float = Field(0.7, ge=0, le=2, description="of the sampling")
        top_p: float = Field(0.9, gt=0, le=1, description="of the sampling")
        repetition_penalty: float = Field(1.1, ge=1, le=2, description="of the sampling")
        max_new_tokens: int = Field(64, ge=1, description="limit of one response")
        max_new_tokens_by_kind: Mapping[str, int] = Field(
            {"verbose": 160}, description="other limits for kinds that need them"
        )

    def __init__(self, settings: Settings, *, completer: Completer) -> None:
        self.settings, self._completer = settings, completer
        self._pool = load_pool(settings.examples)

    def generate(self, wanted: Sequence[tuple[SftRecord, str]], seed: int) -> _Generated:
        """One response per (record, kind), not checked yet; the kind is the candidate's `source`, the record's id its
        `instruction_id`. A response depends on (instruction, kind, seed) alone.

        Raises:
            DataError: the pool has no examples of a kind.
        """
        requests = [self._request(record, kind, seed) for record, kind in wanted]
        completions = self._completer.complete(requests)
        rows = zip(wanted, requests, completions, strict=True)
        candidates = tuple(_candidate(record, kind, request, done) for (record, kind), request, done in rows)
        return _Generated(candidates, sum(len(completion.token_ids) for completion in completions))

    def _request(self, record: SftRecord, kind: str, seed: int) -> Request:
        settings = self.settings
        own_seed = derive(seed, "hard_negatives", kind, record.instruction)
        count = min(settings.num_examples, max(1, len(self._pool.of_type(kind))))
        shots = self._pool.draw(count, stream(own_seed, "examples"), [kind])
        prompt = Frame.prompt(record.instruction, [(shot.instruction, shot.response) for shot in shots])
        sampling = Sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            repetition_penalty=settings.repetition_penalty,
            max_new_tokens=settings.max_new_tokens_by_kind.get(kind, settings.max_new_tokens),
            stop=Frame.stop_strings,
        )
        opening = _OPENINGS.get(kind, "")
        return Request(f"{kind}-{record.id}", sampling, own_seed, f"{opening}\n\n{prompt}".lstrip())


def _candidate(record: SftRecord, kind: str, request: Request, completion: Completion) -> Candidate:
    return Candidate(
        id=record_id("hard_negative", kind, request.seed, request.text),
        instruction_id=record.id,
        instruction=record.instruction,
        type=record.type,
        prompt=request.text,
        seed=request.seed,
        raw_text=completion.raw_text,
        generated=completion.text,
        response=completion.text.strip(),
        finish_reason=completion.finish_reason,
        num_raw_tokens=len(completion.token_ids),
        source=kind,
    )
