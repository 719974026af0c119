"""A completion depends on its own request alone: together, reversed or one by one, its bits are the same.

Results that move with the batch make no two numbers comparable and no run repeatable (vllm#42259 and the back-end
threads of lm-evaluation-harness). Greedy and sampled requests of unequal lengths, more of them than there are slots.
"""

from __future__ import annotations

from collections.abc import Sequence

from rung.base.seeds import derive
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._subject import Subject
from rung.records.contracts import Completion, Request, Sampling

__all__ = ["BatchComposition"]


class BatchCompositionSettings(BaseSettings):
    """How much is decoded."""

    num_requests: int = Field(5, ge=2, description="requests, every other one sampled")
    num_new_tokens: int = Field(7, ge=1, description="at most this many tokens each, fewer for some")


class BatchComposition(Check):
    """The same requests in three groupings."""

    Settings = BatchCompositionSettings
    guards = "batch composition that changes results"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """Together against reversed against alone."""
        requests, engine = self._requests(subject), subject.engine(subject.loaded)
        together = engine.complete(requests)
        groupings: dict[str, Sequence[Completion]] = {
            "in reverse": engine.complete(requests[::-1])[::-1],
            "alone": [engine.complete([request])[0] for request in requests],
        }
        problems = [
            f"{request.id} {name}: {what}"
            for name, completions in groupings.items()
            for request, one, other in zip(requests, together, completions, strict=True)
            if (what := _difference(one, other))
        ]
        num_tokens = sum(len(completion.token_ids) for completion in together)
        return verdict(problems, f"{len(requests)} requests, {num_tokens} tokens, three groupings, the same to the bit")

    def _requests(self, subject: Subject) -> list[Request]:
        prompt, requests = subject.text.prompts["training"], []
        few = [exchange for exchange, _ in subject.few(self.settings.num_requests)]
        for number in range(self.settings.num_requests):
            exchange = few[number % len(few)]
            sampling = Sampling(
                temperature=0.8 * (number % 2),
                top_p=0.9,
                max_new_tokens=max(self.settings.num_new_tokens - 2 * (number % 3), 1),
            )
            name = f"request {number}"
            requests.append(Request(name, sampling, derive(0, "audit", number), prompt(exchange.instruction)))
        return requests


def _difference(one: Completion, other: Completion) -> str:
    if one.token_ids != other.token_ids:
        pairs = enumerate(zip(one.token_ids, other.token_ids, strict=False))
        place = next((n for n, (a, b) in pairs if a != b), min(len(one.token_ids), len(other.token_ids)))
        return f"other tokens from place {place} on"
    for name in ("logprobs", "raw_logprobs", "entropies"):
        if getattr(one, name) != getattr(other, name):
            return f"other {name.replace('_', ' ')}"
    return "" if one.text == other.text else "other text"
